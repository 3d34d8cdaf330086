"""Classification: one class per sample; cross-entropy, accuracy and confusion matrix.

Targets are class numbers `(B,)`, or class probabilities `(B, num_classes)`, as MixUp makes them for training batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from perceiver.objectives.checks import check_class_settings, check_classes, sample_name
from perceiver.objectives.metrics.quality import WeightedMean, confusion_matrix, correct_share, mean_recall
from perceiver.objectives.objective import CONFUSION, Metrics
from perceiver.objectives.supervised.class_weights import weights_of_classes
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.supervised import Mix, Supervised
from perceiver.runtime.regularising import regularising
from perceiver.samples.batch import Batch


@regularising(label_smoothing=0.0, mix=None)
def classification(
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
    mix: Mix | None = None,
    class_weights: Sequence[float] | Literal["balanced"] | None = None,
    class_counts: Sequence[int] | None = None,
    balanced_accuracy: bool = False,
) -> Supervised:
    """Classification, for a model `(inputs, masks) -> (B, num_classes)` logits.

    Measures `loss`, the plain cross-entropy, and `accuracy`. If a target is class probabilities, its most probable class
    counts; training accuracy is measured on mixed and augmented samples.

    Args:
        num_classes: number of classes; targets are integers in [0, num_classes).
        label_smoothing: smoothing in [0, 1), in the training loss only.
        mix: applied to every training batch, on its device; validation and test use unmixed data.
        class_weights: weight of each class in the training loss, which is the weighted mean; "balanced": samples /
            (classes * samples of the class); None: equal weights.
        class_counts: number of training samples per class, for "balanced"; the data module's spec has them.
        balanced_accuracy: also measure `balanced_accuracy`, the mean recall over the classes that occur.
    """
    criterion = Classes(
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        class_weights=weights_of_classes(class_weights, class_counts, num_classes),
        balanced_accuracy=balanced_accuracy,
    )
    return Supervised(criterion=criterion, mix=mix)


class Classes(Criterion):
    """Criterion for one class per sample; see `classification`. Weights are `(num_classes,)` or None."""

    class_weights: Tensor | None

    def __init__(
        self, *, num_classes: int, label_smoothing: float, class_weights: Tensor | None, balanced_accuracy: bool
    ) -> None:
        super().__init__(num_outputs=num_classes)
        check_class_settings(num_classes=num_classes, label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing
        self.balanced_accuracy = balanced_accuracy
        self.register_buffer("class_weights", class_weights, persistent=False)

    def checked(self, batch: Batch) -> Batch:
        """Check class numbers, or probabilities that are at least 0 and sum to 1."""
        target = batch.target
        if target is None or not target.is_floating_point():
            check_classes(batch, num_classes=self.num_outputs)
            return batch
        if target.ndim != 2 or target.shape[1] != self.num_outputs:
            raise ValueError(
                f"batch.target: expected class numbers (B,), or class probabilities (B, {self.num_outputs}), got "
                f"floating point of shape {tuple(target.shape)}."
            )
        wrong = ((target.sum(dim=1) - 1).abs() > 1e-3) | (target < 0).any(dim=1) | ~target.isfinite().all(dim=1)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, index)!r}: expected class probabilities of at least 0 that "
                f"sum to 1, got {target[index].tolist()}."
            )
        return replace(batch, target=target.float())

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the smoothed cross-entropy, weighted by class if configured."""
        smoothing = self.label_smoothing
        return F.cross_entropy(outputs, target, weight=self.class_weights, label_smoothing=smoothing, reduction="none")

    def weights(self, target: Tensor) -> Tensor | None:
        """Return the weight of each target's class, or the weighted sum of class probabilities."""
        if self.class_weights is None:
            return None
        return target @ self.class_weights if target.is_floating_point() else self.class_weights[target]

    def training_metrics(self) -> dict[str, Metric]:
        """Return the accuracy."""
        return {"accuracy": _Accuracy(num_classes=self.num_outputs, average="micro", validate_args=False)}

    def metrics(self) -> dict[str, Metric]:
        """Return metrics for the plain loss and the confusion matrix."""
        return {"loss": WeightedMean(), CONFUSION: confusion_matrix(self.num_outputs)}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        metrics["loss"].update(F.cross_entropy(outputs, target), len(target))
        metrics[CONFUSION].update(outputs, _largest(target))

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss`, `accuracy`, and `balanced_accuracy` if configured."""
        confusion = metrics[CONFUSION].compute().cpu().double()
        balanced = {"balanced_accuracy": mean_recall(confusion)} if self.balanced_accuracy else {}
        return {**super().results(metrics), "accuracy": correct_share(confusion), **balanced}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of `results`."""
        return [*super().result_names(metrics), "accuracy", *(["balanced_accuracy"] if self.balanced_accuracy else [])]


class _Accuracy(MulticlassAccuracy):
    """Accuracy that also accepts class probabilities as targets."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update with logits `(B, classes)` and class numbers or probabilities."""
        super().update(preds, _largest(target))


def _largest(target: Tensor) -> Tensor:
    """Return class numbers `(B,)`, from class numbers or probabilities `(B, num_classes)`."""
    return target.argmax(dim=1) if target.is_floating_point() else target
