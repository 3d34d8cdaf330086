"""Metrics over a split, across processes: weighted means, ranking quality, coefficient of determination."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torchmetrics import Metric, R2Score
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from perceiver.objectives.gathering import processes


class WeightedMean(Metric):
    """Weighted mean. Values of weight 0 are ignored, even NaN. The mean of nothing is NaN, and `defined` is False.

    The mean of torchmetrics checks for NaN, which synchronises with the device; without the check it ignores weights.
    `LightningModule.log` also keeps means, but goes through its whole collection in every step: 0.3 ms per mean on a CPU,
    which is noticeable for small models.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros(()), dist_reduce_fx="sum")
        self.defined = torch.tensor(False)
        """Whether the last `compute` had any value of any process: tells the mean of nothing from a mean of NaN."""

    def update(self, values: Tensor, weights: Tensor | int) -> None:
        """Add values with weights of the same shape, e.g. a mask; or a mean, `()`, with its number of samples."""
        values = values.detach().float()
        # Not in place: a state from inference mode may be updated outside of it.
        if not isinstance(weights, int):
            self.total = self.total + torch.where(weights > 0, values * weights, 0.0).sum()
            self.weight = self.weight + weights.sum()
        elif weights > 0:
            self.total, self.weight = self.total + values * weights, self.weight + weights

    def compute(self) -> Tensor:
        """Return the mean in float32."""
        self.defined = self.weight > 0
        return self.total / self.weight


class RankingQuality(Metric):
    """Ranking of samples by the logits of each label: average precision and area under the ROC curve, macro means.

    Average precision is averaged over the labels with a positive sample, the area over the labels with a positive and a
    negative sample; it is undefined for the others. NaN if no label counts. Targets above 0.5 are positive. All logits are
    kept until `reset`.
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
        """Add logits and targets, `(B, labels)` each."""
        self.logits.append(logits.detach().float())
        self.targets.append((targets > 0.5).int())

    def compute(self) -> dict[str, Tensor]:
        """Return `average_precision` and `auroc`."""
        # Each process contributes a single, already concatenated tensor.
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
    """Coefficient of determination, averaged over the outputs whose targets vary.

    NaN where no target varies, as in a split of a single sample: the coefficient is undefined.

    Args:
        num_outputs: number of outputs.
    """

    least: Tensor
    most: Tensor

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__(multioutput="raw_values")
        # Shapes independent of the first update: a process may have no sample, and all processes synchronise their states.
        for name in ("sum_squared_error", "sum_error", "residual"):
            self.add_state(name, default=torch.zeros(num_outputs), dist_reduce_fx="sum")
        self.add_state("least", default=torch.full((num_outputs,), torch.inf), dist_reduce_fx="min")
        self.add_state("most", default=torch.full((num_outputs,), -torch.inf), dist_reduce_fx="max")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions and targets, `(B, outputs)` each."""
        super().update(preds, target)
        self.least = torch.minimum(self.least, target.amin(dim=0))
        self.most = torch.maximum(self.most, target.amax(dim=0))

    def compute(self) -> Tensor:
        """Return the coefficient, at most 1."""
        varies = self.most > self.least
        return super().compute()[varies].mean() if bool(varies.any()) else self.most.new_full((), torch.nan)


def mean_over_processes(losses: Tensor, counted: Tensor) -> Tensor:
    """Return a training loss, `()`, whose average over processes is the mean over what counts in all of them together.

    Processes have different numbers of tokens, possibly zero, and their gradients are averaged.

    Args:
        losses: losses of any shape, 0 where they do not count.
        counted: boolean, of the same shape.
    """
    count = counted.sum()
    if processes() > 1:
        count = count.float()
        distributed.all_reduce(count)
        count = count / processes()
    return losses.sum() / torch.where(count > 0, count, 1)


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Return a new confusion matrix `(num_classes, num_classes)`, rows true classes, for checked class numbers."""
    return MulticlassConfusionMatrix(num_classes=num_classes, validate_args=False)


def correct_share(confusion: Tensor) -> Tensor:
    """Return the share of correct predictions in a confusion matrix."""
    return (confusion.diagonal().sum() / confusion.sum()).float()


def mean_recall(confusion: Tensor) -> Tensor:
    """Return the balanced accuracy: the mean recall over the classes that occur."""
    samples = confusion.sum(dim=1)
    return (confusion.diagonal() / samples.clamp(min=1))[samples > 0].mean().float()


def intersections_over_union(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Return the IoU per class `(classes,)`, 0 for classes neither true nor predicted, and the mean over the others."""
    both = confusion.diagonal()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - both
    shares = both / union.clamp(min=1)
    return shares.float(), shares[union > 0].mean().float()


def _ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score among the distinct scores, in [0, 1], which keeps order and ties.

    Both metrics depend on the order only. torchmetrics would apply a sigmoid to logits, which merges large values.
    """
    different, place = scores.unique(return_inverse=True)
    ranks: Tensor = place.double() / max(len(different) - 1, 1)
    return ranks


def _mean(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values).float().mean() if values else like.new_full((), float("nan"), dtype=torch.float32)
