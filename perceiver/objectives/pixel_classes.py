"""Semantic segmentation: one class per pixel; cross-entropy, mean intersection over union, pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from perceiver.batch import Batch
from perceiver.objectives.checks import check_class_settings
from perceiver.objectives.class_weights import weights_of_classes
from perceiver.objectives.criterion import Criterion
from perceiver.objectives.dense import Dense, checked_target_mask, where_wrong
from perceiver.objectives.metrics import WeightedMean, confusion_matrix, correct_share, intersections_over_union
from perceiver.objectives.objective import CONFUSION, Metrics


def segmentation(
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | Literal["balanced"] | None = None,
    class_counts: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
) -> Dense:
    """Semantic segmentation, by a model whose head is a `perceiver.decoders.QueryDecoder` on the grid of the targets.

    Targets are class numbers `(B, *grid)`. Measures `loss`, the plain cross-entropy, `mean_iou` and `pixel_accuracy`. The
    intersection over union of a class is that of all pixels of a split; `mean_iou` is its mean over the classes, a
    background included, that are true or predicted anywhere. The confusion matrix counts pixels.

    Args:
        num_classes: how many classes there are.
        label_smoothing: share of the target probability spread evenly over all classes, in training only.
        class_weights: of the training loss: a number for each class; "balanced": inverse to `class_counts`; None: all alike.
        class_counts: how many training pixels are of each class.
        class_names: also measure `iou/NAME` of each class; None: the mean alone.
        num_queries: see `Dense`.

    Raises:
        ValueError: for fewer than two classes, or settings that do not go with them.
    """
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"task.class_names: expected {num_classes} names, or null, got {list(class_names)}.")
    criterion = PixelClasses(
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        class_weights=weights_of_classes(class_weights, class_counts, num_classes),
        class_names=class_names or (),
    )
    return Dense(task="segmentation", criterion=criterion, num_queries=num_queries)


class PixelClasses(Criterion):
    """One of several classes for each pixel; see `segmentation`, with weights `(num_classes,)` or None."""

    class_weights: Tensor | None

    def __init__(
        self, *, num_classes: int, label_smoothing: float, class_weights: Tensor | None, class_names: Sequence[str]
    ) -> None:
        super().__init__(num_outputs=num_classes)
        check_class_settings(num_classes=num_classes, label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing
        self.class_names = tuple(class_names)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def checked(self, batch: Batch) -> Batch:
        """Class numbers, 0 where the target is not valid."""
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected class numbers (B, *grid), got None; the data has no targets.")
        if target.ndim < 2 or target.shape[0] != batch.size or target.is_floating_point():
            raise ValueError(
                f"batch.target: expected class numbers ({batch.size}, *grid), integers without an axis of channels, got "
                f"{target.dtype} {tuple(target.shape)}."
            )
        valid = checked_target_mask(batch, channel_axes=0)
        wrong = valid & ((target < 0) | (target >= self.num_outputs))
        if bool(wrong.any()):
            where, place = where_wrong(wrong, batch.ids)
            raise ValueError(
                f"{where}: expected a class number from 0 to {self.num_outputs - 1}, got {int(target[place])}. Correct it, "
                "or the class names of the data module's spec; pixels that do not count have target_mask False."
            )
        return replace(batch, target=torch.where(valid, target, 0).long(), target_mask=valid)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Smoothed cross-entropy, weighted by class if so configured."""
        return F.cross_entropy(
            outputs.movedim(-1, 1),
            target,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def weights(self, target: Tensor) -> Tensor | None:
        """Those of the classes."""
        return None if self.class_weights is None else self.class_weights[target]

    def metrics(self) -> dict[str, Metric]:
        """The plain loss, and what all else follows from."""
        return {"loss": WeightedMean(), CONFUSION: confusion_matrix(self.num_outputs)}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        losses = F.cross_entropy(outputs, target, reduction="none")
        metrics["loss"].update(losses, torch.ones_like(losses))
        metrics[CONFUSION].update(outputs.argmax(dim=-1), target)

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """`loss`, `mean_iou`, `pixel_accuracy`, and `iou/NAME` if so configured."""
        confusion = metrics[CONFUSION].compute().cpu().double()
        each, mean = intersections_over_union(confusion)
        named = {f"iou/{name}": share for name, share in zip(self.class_names, each, strict=False)}
        return {**super().results(metrics), "mean_iou": mean, "pixel_accuracy": correct_share(confusion), **named}
