"""Multi-label classification: a cross-entropy per label, average precision and area under the ROC curve.

Targets are `(B, num_classes)`: booleans, or numbers from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from perceiver.objectives.checks import sample_name
from perceiver.objectives.metrics.quality import RankingQuality, WeightedMean
from perceiver.objectives.objective import Metrics
from perceiver.objectives.supervised.class_weights import weights_of_positives
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.supervised import Mix, Supervised
from perceiver.runtime.regularising import regularising
from perceiver.samples.batch import Batch


@regularising(mix=None)
def multilabel(
    *,
    num_classes: int,
    mix: Mix | None = None,
    positive_weights: Sequence[float] | Literal["balanced"] | None = None,
    positive_counts: Sequence[int] | None = None,
    num_samples: int | None = None,
) -> Supervised:
    """Multi-label classification, for a model `(inputs, masks) -> (B, num_classes)` logits.

    Measures `loss`, the plain cross-entropy, `average_precision` and `auroc`: macro means over the labels for which the
    split defines them, see `RankingQuality`.

    Args:
        num_classes: number of labels.
        mix: applied to every training batch, on its device; validation and test use unmixed data.
        positive_weights: weight per label of positive samples in the training loss, relative to negative samples;
            "balanced": (negatives) / (positives) of the training split, 1 where either is zero; None: equal weights.
        positive_counts: positive training samples per label, for "balanced"; see `perceiver.targets.labels.labels_target`.
        num_samples: number of training samples, for "balanced".
    """
    if num_classes < 1:
        raise ValueError(f"task.num_classes: expected at least 1 label, got {num_classes}.")
    weights = weights_of_positives(positive_weights, positive_counts, num_samples, num_classes)
    return Supervised(criterion=Labels(num_classes=num_classes, positive_weights=weights), mix=mix)


class Labels(Criterion):
    """Criterion for any number of labels; see `multilabel`. Weights are `(num_classes,)` or None."""

    positive_weights: Tensor | None

    def __init__(self, *, num_classes: int, positive_weights: Tensor | None) -> None:
        super().__init__(num_outputs=num_classes)
        self.register_buffer("positive_weights", positive_weights, persistent=False)

    def checked(self, batch: Batch) -> Batch:
        """Return targets from 0 to 1, in float32."""
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected one row of labels per sample, got None; the data has no labels.")
        if target.ndim != 2 or target.shape[1] != self.num_outputs:
            raise ValueError(
                f"batch.target: expected (B, {self.num_outputs}), one column per label, got {tuple(target.shape)}. "
                "For one class per sample, use task=classification."
            )
        wrong = ~((target >= 0) & (target <= 1)).all(dim=1)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, index)!r}: expected booleans, or numbers from 0 to 1, got "
                f"{target[index].tolist()}."
            )
        return replace(batch, target=target.float())

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over samples and labels, with positives weighted if configured."""
        return F.binary_cross_entropy_with_logits(outputs, target, pos_weight=self.positive_weights)

    def metrics(self) -> dict[str, Metric]:
        """Return metrics for the plain loss, and for logits and targets of the whole split."""
        return {"loss": WeightedMean(), "quality": RankingQuality()}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        metrics["loss"].update(F.binary_cross_entropy_with_logits(outputs, target), len(target))
        metrics["quality"].update(outputs, target)

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss`, and `average_precision` and `auroc` where at least one label defines them."""
        quality = {name: value for name, value in metrics["quality"].compute().items() if not bool(value.isnan())}
        return {"loss": metrics["loss"].compute(), **quality}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of `results`."""
        return ["loss", "average_precision", "auroc"]

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Ranking needs a label with a positive sample, and for the ROC curve also a negative sample."""
        if name not in ("average_precision", "auroc"):
            return None
        some = every = None
        for batch in batches:
            assert batch.target is not None, "checked"
            positive = batch.target > 0.5
            some = positive.any(dim=0) if some is None else some | positive.any(dim=0)
            every = positive.all(dim=0) if every is None else every & positive.all(dim=0)
            if bool((some if name == "average_precision" else some & ~every).any()):
                return None
        lacks = "with a positive sample" if name == "average_precision" else "with both positive and negative samples"
        return f"it has no label {lacks}"
