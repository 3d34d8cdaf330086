"""What every task does alike: a model around which Lightning trains, its optimizer, and what its checkpoints hold."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from perceiver.batch import Batch
from perceiver.tasks.clipping import clip_gradients
from perceiver.tasks.sharding import shard
from perceiver.tasks.training_steps import (
    OptimizerFactory,
    SchedulerFactory,
    learning_rate,
    optimization,
    require_finite,
    separate_random_streams,
)
from perceiver.tasks.weighted_mean import WeightedMean


class Objective(LightningModule, ABC):
    """Base of the tasks, which add their steps.

    It logs `train/loss`, which training steps add to `train_loss`, the other `training_metrics`, and `train/learning_rate`,
    that an epoch ended with.

    Args:
        model: its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
        checkpoint: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.train_loss = WeightedMean()
        self._logged = False
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._checkpoint = dict(checkpoint) if checkpoint is not None else None

    def on_fit_start(self) -> None:
        """See `separate_random_streams`."""
        separate_random_streams(self.global_rank)

    def training_metrics(self) -> dict[str, Metric]:
        """What training steps update, by the name that it is logged under when the epoch is over.

        They are attributes whose names begin with `train_`: those go into checkpoints within an epoch.
        """
        return {"train/loss": self.train_loss}

    def learned(self, loss: Tensor, batch: Batch) -> Tensor:
        """The loss that a training step returns, counted in `train/loss`.

        Raises:
            FloatingPointError: it is not finite.
        """
        require_finite(loss, batch=batch, task=self)
        self.train_loss.update(loss, batch.size)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what the epoch's steps have added up, with the last of them: progress bars look before the epoch's end."""
        if self.trainer.is_last_batch:
            self._log_training_metrics()

    def on_train_epoch_end(self) -> None:
        """The learning rate that the epoch ended with; also the steps' metrics if no batch was the last."""
        if not self._logged:
            self._log_training_metrics()
        self._logged = False
        self.log("train/learning_rate", learning_rate(self.trainer), sync_dist=True)

    def _log_training_metrics(self) -> None:
        """Once an epoch; Lightning resets what it has logged."""
        self._logged = True
        for name, metric in self.training_metrics().items():
            self.log(name, metric, on_step=False, on_epoch=True, prog_bar=name == "train/loss")

    def configure_model(self) -> None:
        """See `shard`."""
        shard(self, self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """See `optimization`."""
        return optimization(self.model, optimizer=self._optimizer, scheduler=self._scheduler, trainer=self.trainer)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """See `clip_gradients`."""
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `perceiver.load` needs to rebuild the model."""
        if self._checkpoint is not None:
            checkpoint["perceiver"] = self._checkpoint
