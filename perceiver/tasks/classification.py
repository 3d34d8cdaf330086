"""Classification: cross-entropy, accuracy and confusion matrix around a model that returns logits.

Targets are class numbers `(B,)`, or shares of the classes `(B, num_classes)`, as MixUp makes them of training batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from perceiver.batch import Batch
from perceiver.tasks.class_weights import weights_of_classes
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import (
    OptimizerFactory,
    SchedulerFactory,
    counted,
    require_classes,
    require_modality,
    sample_name,
)

Mix = Callable[[Batch], Batch]
"""Training batch to training batch, targets `(B, num_classes)`: `perceiver.data.MixUpCutMix`, or anything alike."""


class ClassificationTask(Objective):
    """Train a model to tell classes apart.

    Logs `train/loss`, `train/accuracy`, `train/learning_rate`, and `val/` and `test/` loss and accuracy, one value per
    epoch. `val_confusion` and `test_confusion` hold the confusion matrix of the last pass, rows the true classes. Where a
    target is shares of classes, accuracy goes by the largest.

    Args:
        model: `(inputs, masks) -> (B, num_classes)` logits; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        num_classes: targets are integers in [0, num_classes).
        label_smoothing: of the training loss only, in [0, 1); validation and test report the plain loss.
        mix: called on every training batch, on its device; validation and test see the data as it is.
        class_weights: weight of each class in the training loss, which is the weighted mean; "balanced" takes
            samples / (classes * samples of the class); None weighs all alike.
        class_counts: training samples of each class, for "balanced"; the data module's spec says them.
        balanced_accuracy: also log `val/balanced_accuracy` and `test/balanced_accuracy`: the mean over the classes that
            occur of the share recognised of each.
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
        mix: Mix | None = None,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        class_counts: Sequence[int] | None = None,
        balanced_accuracy: bool = False,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        if num_classes < 2:
            raise ValueError(f"task.num_classes: expected at least 2 classes, got {num_classes}.")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing: expected a number in [0, 1), got {label_smoothing}.")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mix = mix
        self.balanced_accuracy = balanced_accuracy
        # Not in checkpoints: they hold the model, and this follows from configuration and spec.
        weights = weights_of_classes(class_weights, class_counts, num_classes)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
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
        """Check the batch while it is still in main memory: on a GPU a wrong target kills the process without a name.

        Raises:
            ValueError: for a sample without any modality, a missing target, one outside [0, num_classes), or shares that are
                none; names the sample.
        """
        require_modality(batch)
        if batch.target is not None and batch.target.is_floating_point():
            self._check_shares(batch.target, batch.ids)
            return batch
        require_classes(batch, num_classes=self.num_classes)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Smoothed cross-entropy of the batch, mixed if so configured; its mean, weighted by class if so configured.

        Raises:
            FloatingPointError: as soon as the loss is not finite; what follows would be lost anyway.
        """
        if self.mix is not None:
            batch = self.mix(batch)
        logits = self(batch)
        target = self._targets(batch)
        loss = self.learned(self._training_loss(logits, target), batch)
        self.train_accuracy.update(logits.detach(), _largest(target))
        return loss

    def training_metrics(self) -> dict[str, Metric]:
        """Loss, and accuracy of the mixed and augmented images as the model saw them."""
        return {**super().training_metrics(), "train/accuracy": self.train_accuracy}

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.val_confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.test_confusion.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, accuracy and confusion matrix of the validation data."""
        self._evaluate(batch, batch_idx, "val", self.val_accuracy, self.val_confusion)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, accuracy and confusion matrix of the test data."""
        self._evaluate(batch, batch_idx, "test", self.test_accuracy, self.test_confusion)

    def on_validation_epoch_end(self) -> None:
        """The balanced accuracy of this pass, if so configured."""
        if self.balanced_accuracy:
            self.log("val/balanced_accuracy", _mean_recall(self.val_confusion.compute()), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """The balanced accuracy of this pass, if so configured."""
        if self.balanced_accuracy:
            self.log("test/balanced_accuracy", _mean_recall(self.test_confusion.compute()), sync_dist=True)

    def _evaluate(
        self, batch: Batch, batch_idx: int, stage: str, accuracy: MulticlassAccuracy, confusion: MulticlassConfusionMatrix
    ) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        logits = self(batch)[:count]
        target = self._targets(batch)[:count]
        if count:  # torchmetrics stumbles over no samples
            accuracy.update(logits, _largest(target))
            confusion.update(logits, _largest(target))
        loss = F.cross_entropy(logits, target, reduction="sum") / max(count, 1)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(target), sync_dist=True)
        self.log(f"{stage}/accuracy", accuracy, on_epoch=True, batch_size=len(target), prog_bar=stage == "val")

    def _training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        # The mean that torch takes is weighted for class numbers, but not for shares of classes: sum and divide.
        weights = self.class_weights
        total = F.cross_entropy(logits, target, weight=weights, label_smoothing=self.label_smoothing, reduction="sum")
        each = target @ weights if target.is_floating_point() else weights[target]
        return total / each.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def _check_shares(self, target: Tensor, ids: Sequence[str]) -> None:
        if target.ndim != 2 or target.shape[1] != self.num_classes:
            raise ValueError(
                f"batch.target: expected class numbers (B,), or shares of the classes (B, {self.num_classes}), got "
                f"floating point of shape {tuple(target.shape)}."
            )
        wrong = ((target.sum(dim=1) - 1).abs() > 1e-3) | (target < 0).any(dim=1) | ~target.isfinite().all(dim=1)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(ids, index)!r}: expected shares of the classes, at least 0 and 1 in all, "
                f"got {target[index].tolist()}."
            )

    @staticmethod
    def _targets(batch: Batch) -> Tensor:
        assert batch.target is not None, "checked in on_before_batch_transfer"
        return batch.target


def _largest(target: Tensor) -> Tensor:
    """Class numbers `(B,)`: themselves, or the largest of the shares `(B, num_classes)`."""
    return target.argmax(dim=1) if target.is_floating_point() else target


def _mean_recall(confusion: Tensor) -> Tensor:
    """Balanced accuracy of a confusion matrix with the true classes in rows: mean recall over classes that occur."""
    samples = confusion.sum(dim=1)
    return (confusion.diagonal() / samples.clamp(min=1))[samples > 0].mean()
