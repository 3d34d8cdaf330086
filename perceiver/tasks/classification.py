"""Classification: cross-entropy, accuracy and confusion matrix around a model that returns logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from perceiver.batch import Batch
from perceiver.tasks.parameter_groups import parameter_groups

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


class ClassificationTask(LightningModule):
    """Train a model to tell classes apart.

    Logs `train/loss`, `train/accuracy`, `train/learning_rate`, and `val/` and `test/` loss and accuracy, one value per
    epoch. `val_confusion` and `test_confusion` hold the confusion matrix of the last pass, rows the true classes.

    Args:
        model: `(inputs, masks) -> (B, num_classes)` logits; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        num_classes: targets are integers in [0, num_classes).
        label_smoothing: of the training loss only, in [0, 1); validation and test report the plain loss.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        num_classes: int,
        label_smoothing: float = 0.0,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"task.num_classes: expected at least 2 classes, got {num_classes}.")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing: expected a number in [0, 1), got {label_smoothing}.")
        self.model = model
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._checkpoint = dict(checkpoint) if checkpoint is not None else None
        self.train_accuracy, self.val_accuracy, self.test_accuracy = (
            MulticlassAccuracy(num_classes=num_classes, average="micro", validate_args=False) for _ in range(3)
        )
        self.val_confusion, self.test_confusion = (
            MulticlassConfusionMatrix(num_classes=num_classes, validate_args=False) for _ in range(2)
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits `(B, num_classes)` of a batch."""
        logits: Tensor = self.model(batch.inputs, batch.masks)
        return logits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the targets while they are still in main memory: on a GPU a wrong one kills the process without a name.

        Raises:
            ValueError: for a missing target or one outside [0, num_classes); names the sample.
        """
        if batch.target is None:
            raise ValueError("batch.target: expected one class number per sample, got None; the data has no labels.")
        outside = (batch.target < 0) | (batch.target >= self.num_classes)
        if bool(outside.any()):
            index = int(outside.nonzero()[0])
            name = batch.ids[index] if index < len(batch.ids) else f"number {index} of its batch"
            raise ValueError(
                f"target of sample {name!r}: expected a class number from 0 to {self.num_classes - 1}, got "
                f"{int(batch.target[index])}. Correct the label, or the class names of the data module's spec."
            )
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Smoothed cross-entropy, mean over the batch.

        Raises:
            FloatingPointError: as soon as the loss is not finite; what follows would be lost anyway.
        """
        logits = self(batch)
        target = self._targets(batch)
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        if not bool(torch.isfinite(loss)):
            self._stop_at(float(loss.detach()), batch)
        self.train_accuracy.update(logits.detach(), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(target), prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True, batch_size=len(target))
        return loss

    def on_train_epoch_end(self) -> None:
        """The learning rate that the epoch ended with."""
        self.log("train/learning_rate", float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.val_confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.test_confusion.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, accuracy and confusion matrix of the validation data."""
        self._evaluate(batch, "val", self.val_accuracy, self.val_confusion)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, accuracy and confusion matrix of the test data."""
        self._evaluate(batch, "test", self.test_accuracy, self.test_confusion)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over two parameter groups; the schedule, if any, advances with every step."""
        optimizer = self._optimizer(parameter_groups(self.model))
        if self._scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        # An endless training has infinitely many steps, which no integer holds: the schedule says what to do then.
        total = int(steps) if steps != float("inf") else -1
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._scheduler(optimizer, total), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `perceiver.load` needs to rebuild the model."""
        if self._checkpoint is not None:
            checkpoint["perceiver"] = self._checkpoint

    def _evaluate(
        self, batch: Batch, stage: str, accuracy: MulticlassAccuracy, confusion: MulticlassConfusionMatrix
    ) -> None:
        logits = self(batch)
        target = self._targets(batch)
        accuracy.update(logits, target)
        confusion.update(logits, target)
        loss = F.cross_entropy(logits, target)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(target), sync_dist=True)
        self.log(f"{stage}/accuracy", accuracy, on_epoch=True, batch_size=len(target), prog_bar=stage == "val")

    @staticmethod
    def _targets(batch: Batch) -> Tensor:
        assert batch.target is not None, "checked in on_before_batch_transfer"
        return batch.target

    def _stop_at(self, loss: float, batch: Batch) -> None:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise FloatingPointError(
            f"the training loss became {loss} in epoch {self.current_epoch + 1}, step {self.global_step + 1}, at a learning "
            f"rate of {rate:.3g} (samples {', '.join(batch.ids[:3])}, …). Lower optimizer.lr, or set "
            "trainer.gradient_clip_val; checkpoints of earlier epochs are intact."
        )
