"""Semantic segmentation: one class per pixel; cross-entropy, mean intersection over union, pixel accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from perceiver.objectives.checks import check_class_settings
from perceiver.objectives.metrics.quality import WeightedMean, confusion_matrix, correct_share, intersections_over_union
from perceiver.objectives.objective import CONFUSION, Metrics
from perceiver.objectives.supervised.class_weights import weights_of_classes
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.dense import Dense, checked_target_mask, where_wrong
from perceiver.runtime.regularising import regularising
from perceiver.samples.batch import Batch


@regularising(label_smoothing=0.0)
def segmentation(
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | Literal["balanced"] | None = None,
    class_counts: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
) -> Dense:
    """Semantic segmentation, for a model whose head is a `perceiver.decoders.QueryDecoder` on the grid of the targets.

    Targets are class numbers `(B, *grid)`. Measures `loss`, the plain cross-entropy, `mean_iou` and `pixel_accuracy`. The
    intersection over union of a class is taken over all pixels of a split; `mean_iou` is its mean over the classes that are
    true or predicted anywhere, including a background class. The confusion matrix counts pixels.

    Args:
        num_classes: number of classes.
        label_smoothing: share of the target probability spread evenly over all classes, in training only.
        class_weights: weight per class in the training loss; "balanced": inverse to `class_counts`; None: equal weights.
        class_counts: number of training pixels per class.
        class_names: also measure `iou/NAME` of each class; None: only the mean.
        num_queries: see `Dense`.

    Raises:
        ValueError: for fewer than two classes, or settings that do not fit them.
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
    """Criterion for one class per pixel; see `segmentation`. Weights are `(num_classes,)` or None."""

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
        """Return class numbers, 0 where the target is invalid."""
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected class numbers (B, *grid), got None; the data has no targets.")
        if target.ndim < 2 or target.shape[0] != batch.size or target.is_floating_point():
            raise ValueError(
                f"batch.target: expected class numbers ({batch.size}, *grid), integers without a channel axis, got "
                f"{target.dtype} {tuple(target.shape)}."
            )
        valid = checked_target_mask(batch, channel_axes=0)
        wrong = valid & ((target < 0) | (target >= self.num_outputs))
        if bool(wrong.any()):
            where, place = where_wrong(wrong, batch.ids)
            raise ValueError(
                f"{where}: expected a class number from 0 to {self.num_outputs - 1}, got {int(target[place])}. "
                "Correct it, or the class names of the data module's spec. For pixels to ignore, set target_mask to "
                "False."
            )
        return replace(batch, target=torch.where(valid, target, 0).long(), target_mask=valid)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the smoothed cross-entropy, weighted by class if configured."""
        return F.cross_entropy(
            outputs.movedim(-1, 1),
            target,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def weights(self, target: Tensor) -> Tensor | None:
        """Return the weight of each target's class."""
        return None if self.class_weights is None else self.class_weights[target]

    def metrics(self) -> dict[str, Metric]:
        """Return metrics for the plain loss and the confusion matrix."""
        return {"loss": WeightedMean(), CONFUSION: confusion_matrix(self.num_outputs)}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        losses = F.cross_entropy(outputs, target, reduction="none")
        metrics["loss"].update(losses, torch.ones_like(losses))
        metrics[CONFUSION].update(outputs.argmax(dim=-1), target)

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss`, `mean_iou`, `pixel_accuracy`, and `iou/NAME` if configured."""
        confusion = metrics[CONFUSION].compute().cpu().double()
        each, mean = intersections_over_union(confusion)
        named = {f"iou/{name}": share for name, share in zip(self.class_names, each, strict=False)}
        return {**super().results(metrics), "mean_iou": mean, "pixel_accuracy": correct_share(confusion), **named}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of `results`."""
        return [*super().result_names(metrics), "mean_iou", "pixel_accuracy", *(f"iou/{name}" for name in self.class_names)]
