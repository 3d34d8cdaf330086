"""What objectives measure over a split, in all processes: weighted means, ranking quality, coefficient of determination."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, R2Score
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import binary_auroc, binary_average_precision


class WeightedMean(Metric):
    """A weighted mean; what weighs nothing may be anything, NaN included. The mean of nothing is NaN.

    torchmetrics' own mean, where it does not look for NaN, which would synchronise with the device, ignores its weights.
    `LightningModule.log` keeps means as well, but looks at its whole collection in every step: 0.3 ms for each on a
    processor, which small models feel.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Tensor, weights: Tensor | int) -> None:
        """Add values with their weights, of one shape, such as which of them count; or a mean, `()`, of so many samples."""
        values = values.detach().float()
        # Not in place: what was made in inference mode may be added to outside of it.
        if not isinstance(weights, int):
            self.total = self.total + torch.where(weights > 0, values * weights, 0.0).sum()
            self.weight = self.weight + weights.sum()
        elif weights > 0:
            self.total, self.weight = self.total + values * weights, self.weight + weights

    def compute(self) -> Tensor:
        """The mean, float32."""
        return self.total / self.weight


class RankingQuality(Metric):
    """How well the logits of each label order the samples: average precision and area under the ROC curve, macro means.

    A label counts in the mean of the average precision if at least one sample has it, and in that of the area if at least
    one has it and one lacks it; the others say nothing about the model. NaN if no label counts. Targets above 0.5 are
    positive. All logits are kept until `reset`.
    """

    full_state_update = False
    higher_is_better = True
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """`(B, labels)` each."""
        self.logits.append(logits.detach().float())
        self.targets.append((targets > 0.5).int())

    def compute(self) -> dict[str, Tensor]:
        """`average_precision` and `auroc`."""
        # Processes hand over one tensor each, joined already.
        states = (self.logits, self.targets)
        logits, targets = (torch.cat(state) if isinstance(state, list) else state for state in states)
        precisions, areas = [], []
        for column, truth in zip(logits.unbind(dim=1), targets.unbind(dim=1), strict=True):
            positives = int(truth.sum())
            ranks = _ranks(column)
            if positives > 0:
                precisions.append(binary_average_precision(ranks, truth, validate_args=False))
            if 0 < positives < len(truth):
                areas.append(binary_auroc(ranks, truth, validate_args=False))
        return {"average_precision": _mean(precisions, logits), "auroc": _mean(areas, logits)}


class Determination(R2Score):
    """The coefficient of determination, the mean over the outputs whose targets vary.

    NaN where none varies, as in a split of a single sample: whatever a model predicts, the coefficient says nothing.

    Args:
        num_outputs: how many there are.
    """

    least: Tensor
    most: Tensor

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__(multioutput="raw_values")
        # Shapes that do not follow from the first update: a process may have no sample, and all hand over their states.
        for name in ("sum_squared_error", "sum_error", "residual"):
            self.add_state(name, default=torch.zeros(num_outputs), dist_reduce_fx="sum")
        self.add_state("least", default=torch.full((num_outputs,), torch.inf), dist_reduce_fx="min")
        self.add_state("most", default=torch.full((num_outputs,), -torch.inf), dist_reduce_fx="max")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """`(B, outputs)` each."""
        super().update(preds, target)
        self.least = torch.minimum(self.least, target.amin(dim=0))
        self.most = torch.maximum(self.most, target.amax(dim=0))

    def compute(self) -> Tensor:
        """A number of at most 1."""
        varies = self.most > self.least
        return super().compute()[varies].mean() if bool(varies.any()) else self.most.new_full((), torch.nan)


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """A fresh confusion matrix `(num_classes, num_classes)`, rows the true classes, of class numbers that were checked."""
    return MulticlassConfusionMatrix(num_classes=num_classes, validate_args=False)


def correct_share(confusion: Tensor) -> Tensor:
    """The share of right predictions in a confusion matrix."""
    return (confusion.diagonal().sum() / confusion.sum()).float()


def mean_recall(confusion: Tensor) -> Tensor:
    """Balanced accuracy: the mean over the classes that occur of the share recognised of each."""
    samples = confusion.sum(dim=1)
    return (confusion.diagonal() / samples.clamp(min=1))[samples > 0].mean().float()


def intersections_over_union(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Of each class `(classes,)`, 0 where it is neither true nor predicted; and their mean over the other classes."""
    both = confusion.diagonal()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    shares = both / union.clamp(min=1)
    return shares.float(), shares[union > 0].mean().float()


def _ranks(scores: Tensor) -> Tensor:
    """The place of each score among the different ones, in [0, 1]: probabilities with the order and the ties of the scores.

    Both metrics go by order alone. torchmetrics would take logits through a sigmoid, which merges large ones.
    """
    different, place = scores.unique(return_inverse=True)
    ranks: Tensor = place.double() / max(len(different) - 1, 1)
    return ranks


def _mean(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values).float().mean() if values else like.new_full((), float("nan"), dtype=torch.float32)
