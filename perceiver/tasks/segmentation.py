"""Semantic segmentation: one class per pixel, by a query for each; cross-entropy, mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from perceiver.batch import Batch
from perceiver.model import Perceiver
from perceiver.tasks.class_weights import weights_of_classes
from perceiver.tasks.dense_queries import (
    check_target_mask,
    dense_outputs,
    draw_places,
    require_num_queries,
    require_query_decoder,
    where_wrong,
)
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import OptimizerFactory, SchedulerFactory, counted, require_modality


class SegmentationTask(Objective):
    """Train a model to tell the class of every pixel.

    Targets are class numbers `(B, *grid)`; pixels where `Batch.target_mask` is False are ignored, whatever stands there.
    Logs `train/loss`, `train/learning_rate`, and `val/` and `test/` loss, mean_iou and pixel_accuracy, one value per epoch.
    The intersection over union of a class is that of all pixels of a split; `mean_iou` is its mean over the classes, a
    background included, that are true or predicted anywhere. `val_confusion` and `test_confusion` count pixels.

    Args:
        model: its head is a `perceiver.decoders.QueryDecoder` on the grid of the targets; saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        num_classes: how many classes there are.
        label_smoothing: share of the target probability spread evenly over all classes, in training only.
        class_weights: of the training loss: a number for each class; "balanced": inverse to `class_counts`; None: all alike.
        class_counts: how many training pixels are of each class.
        class_names: also log `val/iou/NAME` and `test/iou/NAME` of each class; None: the mean alone.
        num_queries: compute the training loss at so many valid pixels of each sample, drawn anew in every step: memory and
            time of the decoder follow them. On average it is the loss over all. None: all. Evaluation takes all pixels.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.

    Raises:
        ValueError: another head, fewer than two classes, or settings that do not go with them.
    """

    model: Perceiver

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        num_classes: int,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        class_counts: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        num_queries: int | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        require_query_decoder(model, task="segmentation")
        require_num_queries(num_queries)
        if num_classes < 2:
            raise ValueError(f"task.num_classes: expected at least 2 classes, got {num_classes}.")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing: expected a number in [0, 1), got {label_smoothing}.")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"task.class_names: expected {num_classes} names, or null, got {list(class_names)}.")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.class_names = None if class_names is None else list(class_names)
        self.num_queries = num_queries
        # Not in checkpoints: they hold the model, and this follows from configuration and spec.
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights_of_classes(class_weights, class_counts, num_classes), persistent=False)
        settings: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
        self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.val_iou, self.test_iou = (MulticlassJaccardIndex(average="macro", **settings) for _ in range(2))
        self.val_accuracy, self.test_accuracy = (MulticlassAccuracy(average="micro", **settings) for _ in range(2))
        self.val_confusion, self.test_confusion = (MulticlassConfusionMatrix(**settings) for _ in range(2))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the batch while it is still in main memory, and put class 0 where the target is not valid.

        Raises:
            ValueError: for a sample without any modality, missing targets, another shape, or a class number outside
                [0, num_classes) in a valid pixel; names the sample.
        """
        require_modality(batch)
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected class numbers (B, *grid), got None; the data has no targets.")
        if target.ndim < 2 or target.shape[0] != batch.size or target.is_floating_point():
            raise ValueError(
                f"batch.target: expected class numbers ({batch.size}, *grid), integers without an axis of channels, got "
                f"{target.dtype} {tuple(target.shape)}."
            )
        valid = check_target_mask(batch, channel_axes=0)
        wrong = valid & ((target < 0) | (target >= self.num_classes))
        if bool(wrong.any()):
            where, place = where_wrong(wrong, batch)
            raise ValueError(
                f"{where}: expected a class number from 0 to {self.num_classes - 1}, got {int(target[tuple(place)])}. "
                "Correct it, or the class names of the data module's spec; pixels that do not count have target_mask False."
            )
        return replace(batch, target=torch.where(valid, target, 0).long(), target_mask=valid)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Smoothed cross-entropy at some of the valid pixels; its mean, weighted by class if so configured.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        target, valid = _target_of(batch)
        places = draw_places(valid, at_most=self.num_queries)
        logits = dense_outputs(self.model, batch, grid=valid.shape[1:], channels=self.num_classes, index=places.index)
        losses = F.cross_entropy(
            logits.movedim(-1, 1),
            places.taken(target),
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        # Over all valid pixels, also those that were not drawn: a quotient of two sums of what was drawn would be biased.
        total = valid.sum() if self.class_weights is None else torch.where(valid, self.class_weights[target], 0.0).sum()
        loss = (losses * places.weight).sum() / total.clamp(min=torch.finfo(losses.dtype).tiny)
        return self.learned(loss, batch)

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.val_confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        self.test_confusion.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, mean IoU, pixel accuracy and confusion matrix of the validation data."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain cross-entropy, mean IoU, pixel accuracy and confusion matrix of the test data."""
        self._evaluate(batch, batch_idx, "test")

    def on_validation_epoch_end(self) -> None:
        """The IoU of each class, if so configured."""
        self._log_classes("val", self.val_confusion)

    def on_test_epoch_end(self) -> None:
        """The IoU of each class, if so configured."""
        self._log_classes("test", self.test_confusion)

    def _evaluate(self, batch: Batch, batch_idx: int, stage: str) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        target, valid = _target_of(batch)
        logits = dense_outputs(self.model, batch, grid=valid.shape[1:], channels=self.num_classes)
        kept = valid.flatten(1)[:count]
        logits, target = logits[:count][kept], target.flatten(1)[:count][kept]
        predicted = logits.argmax(dim=-1)
        losses, iou, accuracy = (getattr(self, f"{stage}_{name}") for name in ("loss", "iou", "accuracy"))
        if count:
            losses.update(F.cross_entropy(logits, target, reduction="none"))
            for metric in (iou, accuracy, getattr(self, f"{stage}_confusion")):
                metric.update(predicted, target)
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": batch.size}
        self.log(f"{stage}/loss", losses, **settings)
        self.log(f"{stage}/mean_iou", iou, prog_bar=stage == "val", **settings)
        self.log(f"{stage}/pixel_accuracy", accuracy, prog_bar=stage == "val", **settings)

    def _log_classes(self, stage: str, confusion: MulticlassConfusionMatrix) -> None:
        if self.class_names is None:
            return
        matrix = confusion.compute().float()
        both = matrix.diagonal()
        shares = both / (matrix.sum(dim=0) + matrix.sum(dim=1) - both).clamp(min=1)
        for name, share in zip(self.class_names, shares, strict=True):
            self.log(f"{stage}/iou/{name}", share, sync_dist=True)


def _target_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Target and validity."""
    assert batch.target is not None, "checked in on_before_batch_transfer"
    assert batch.target_mask is not None, "made in on_before_batch_transfer"
    return batch.target, batch.target_mask
