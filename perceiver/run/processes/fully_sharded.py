"""Training with parameters, gradients and optimizer states sharded over all processes (FSDP2)."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for `torch.distributed.fsdp.fully_shard`, over all processes; tasks shard their models.

    Checkpoints are single files, as with any other strategy, so that `perceiver.load` can read them and another number of
    processes can resume. The first process holds all weights and optimizer states in main memory while it writes a file.

    Args:
        timeout: time that a process waits for another before it gives up.
        process_group_backend: nccl or gloo; None selects the backend that fits the device.
    """

    def __init__(self, *, timeout: timedelta = timedelta(minutes=30), process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Join the process group, a single group of all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
