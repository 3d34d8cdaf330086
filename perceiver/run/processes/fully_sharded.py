"""Training with parameters, gradients and optimizer states sharded over all processes (FSDP2)."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for `torch.distributed.fsdp.fully_shard`, over all processes; tasks shard their models.

    Checkpoints are whole: one file, as of any other strategy, so that `perceiver.load` reads it and another number of
    processes can continue. The first process holds all weights and optimizer states in main memory while it writes one.

    Args:
        timeout: how long a process waits for another before it gives up.
        process_group_backend: nccl or gloo; None takes what fits the device.
    """

    def __init__(self, *, timeout: timedelta = timedelta(minutes=30), process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Meet the other processes; there is one group of all of them."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
