"""What runs take from Lightning beyond its public interface: when Lightning moves any of it, this test names it first."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader


def require(owner: object, *names: str, used_by: str) -> None:
    """Fail with a sentence where Lightning has no attribute of these names, dotted from `owner`."""
    for dotted in names:
        found: Any = owner
        for name in dotted.split("."):
            if not hasattr(found, name):
                pytest.fail(
                    f"{type(owner).__name__}.{dotted}: this version of Lightning lacks it, and perceiver.run.{used_by} "
                    "needs it"
                )
            found = getattr(found, name)


class Looking(Callback):
    """Looks while a training runs, when the loops have what they have."""

    looked = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        names = ("_combined_loader_states_to_load", "_data_fetcher", "_load_combined_loader_states")
        require(trainer.fit_loop, *names, "epoch_progress.current.processed", used_by="resuming.epoch_progress")
        require(trainer.fit_loop.epoch_loop, "_results.metrics", "_batches_that_stepped", used_by="resuming.epoch_progress")
        result = trainer.fit_loop.epoch_loop._results["training_step.loss"]
        names = ("value", "cumulated_batch_size", "is_tensor", "meta.is_mean_reduction", "meta.is_sum_reduction")
        meta = ("is_max_reduction", "is_min_reduction", "on_epoch", "metric_attribute", "reduce_fx")
        require(result, *names, *(f"meta.{name}" for name in meta), used_by="resuming.epoch_progress")
        self.looked = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert {"epoch_progress", "epoch_loop.batch_progress", "state_dict"} <= set(checkpoint["loops"]["fit_loop"])
        assert set(checkpoint) >= {"callbacks", "optimizer_states", "lr_schedulers", "state_dict", "global_step"}


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loops_and_checkpoints(tmp_path: Path) -> None:
    looking = Looking()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[looking], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(torch.ones(2, 1)))
    assert looking.looked
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    require(trainer, "_accelerator_connector.cluster_environment", used_by="processes.requeue")
    require(trainer.strategy, "_launcher", used_by="processes.launch")


def test_launchers() -> None:
    from lightning.pytorch.strategies import launchers

    require(launchers, "_SubprocessScriptLauncher", used_by="processes.launch")
    names = ("launch", "_call_children_scripts", "_check_can_spawn_children")
    require(launchers._SubprocessScriptLauncher, *names, used_by="processes.launch")


def test_sharding() -> None:
    strategy = ModelParallelStrategy(tensor_parallel_size=1)
    require(strategy, "_data_parallel_size", used_by="processes.fully_sharded")
