"""What the outputs of a model mean: a class, any number of labels, or values. One object for each kind of target.

The spec says which: `spec["target"]["kind"]` is a key of `KINDS`. The functions `labels_target` and `values_target` make
that entry of the spec for a data module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.comparison import Comparison as Comparison
from perceiver.dense_predictions import FieldPrediction, FieldTarget, SegmentationPrediction, SegmentationTarget


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one sample, and the probability of every class by name."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class LabelsPrediction:
    """The labels of one sample whose probability reaches the threshold, and the probability of every label by name."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class ValuesPrediction:
    """The values of one sample by name, in the units of the training data."""

    values: dict[str, float]


AnyPrediction = Prediction | LabelsPrediction | ValuesPrediction | SegmentationPrediction | FieldPrediction


@runtime_checkable
class Target(Protocol):
    """What is predicted; made from `spec["target"]`."""

    def predict(self, outputs: Float[Tensor, "batch *grid outputs"]) -> Sequence[AnyPrediction]:
        """What the outputs of B samples mean, one prediction each."""
        ...

    def compare(
        self, outputs: Float[Tensor, "batch *grid outputs"], target: Shaped[Tensor, "batch *any"]
    ) -> list[Comparison]:
        """Predictions beside truths, for B samples."""
        ...


@dataclass(frozen=True)
class ClassTarget:
    """One of several classes; outputs are logits.

    Args:
        names: of the classes 0, 1, …
    """

    names: Sequence[str]

    def predict(self, outputs: Float[Tensor, "batch classes"]) -> list[Prediction]:
        """Softmax over the classes."""
        predictions = []
        for row in outputs.float().softmax(dim=-1).cpu():
            best = int(row.argmax())
            table = dict(zip(self.names, row.tolist(), strict=True))
            predictions.append(Prediction(self.names[best], table[self.names[best]], table))
        return predictions

    def compare(self, outputs: Float[Tensor, "batch classes"], target: Shaped[Tensor, "batch *classes"]) -> list[Comparison]:
        """Targets are class numbers `(B,)` or shares of the classes, of which the largest counts."""
        truths = (target.argmax(dim=1) if target.is_floating_point() else target).tolist()
        return [
            Comparison(
                predicted=f"{one.label} ({one.probability:.0%})",
                true=self.names[truth],
                correct=one.label == self.names[truth],
                loss=1.0 - one.probabilities[self.names[truth]],
            )
            for one, truth in zip(self.predict(outputs), truths, strict=True)
        ]


@dataclass(frozen=True)
class LabelsTarget:
    """Any number of labels, none and all included; outputs are logits.

    Args:
        names: of the labels, in the order of the outputs.
        threshold: the least probability of a label that counts as predicted.
    """

    names: Sequence[str]
    threshold: float = 0.5

    def predict(self, outputs: Float[Tensor, "batch labels"]) -> list[LabelsPrediction]:
        """A probability for each label, apart from the others."""
        tables = [dict(zip(self.names, row, strict=True)) for row in outputs.float().sigmoid().tolist()]
        return [
            LabelsPrediction(tuple(name for name, probability in table.items() if probability >= self.threshold), table)
            for table in tables
        ]

    def compare(self, outputs: Float[Tensor, "batch labels"], target: Shaped[Tensor, "batch labels"]) -> list[Comparison]:
        """The loss is that of the worst label: one missing and one too many weigh alike, however many there are."""
        wrong = (outputs.float().sigmoid() - target.float()).abs().amax(dim=1).tolist()
        truths = [tuple(name for name, share in zip(self.names, row, strict=True) if share > 0.5) for row in target.tolist()]
        return [
            Comparison(
                predicted=", ".join(one.labels) or "none",
                true=", ".join(truth) or "none",
                correct=one.labels == truth,
                loss=loss,
            )
            for one, truth, loss in zip(self.predict(outputs), truths, wrong, strict=True)
        ]


@dataclass(frozen=True)
class ValuesTarget:
    """Numbers; outputs are normalised by the training split's mean and standard deviation.

    Args:
        names: of the values, in the order of the outputs.
        mean, std: in the units of the data, one per value.
    """

    names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]

    def predict(self, outputs: Float[Tensor, "batch values"]) -> list[ValuesPrediction]:
        """Normalisation undone, in float64: large means keep their digits."""
        mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.std))
        values = (outputs.double().cpu() * std + mean).tolist()
        return [ValuesPrediction(dict(zip(self.names, row, strict=True))) for row in values]

    def compare(self, outputs: Float[Tensor, "batch values"], target: Shaped[Tensor, "batch *values"]) -> list[Comparison]:
        """The loss is the mean distance over the values, in standard deviations of each."""
        truths = target.reshape(len(target), -1).double().cpu()
        comparisons = []
        for one, truth in zip(self.predict(outputs), truths.tolist(), strict=True):
            predicted = list(one.values.values())
            distances = [abs(a - b) / s for a, b, s in zip(predicted, truth, self.std, strict=True)]
            said, real = (", ".join(f"{number:.3g}" for number in numbers) for numbers in (predicted, truth))
            comparisons.append(Comparison(said, real, correct=None, loss=sum(distances) / len(distances)))
        return comparisons


KINDS: dict[str, Callable[[Mapping[str, Any]], Target]] = {
    "classes": lambda target: ClassTarget(names=target["names"]),
    "labels": lambda target: LabelsTarget(names=target["names"], threshold=target.get("threshold", 0.5)),
    "values": lambda target: ValuesTarget(names=target["names"], mean=target["mean"], std=target["std"]),
    "segmentation": lambda target: SegmentationTarget(names=target["names"], modality=target["modality"]),
    "field": FieldTarget.of,
    "flow": FieldTarget.of,
}
"""From a spec's target to what it means, by kind."""


def target_of(spec: Mapping[str, Any] | None) -> Target | None:
    """What a model with this spec predicts; None if the spec does not say, or says a kind that is not known here."""
    target = (spec or {}).get("target") or {}
    make = KINDS.get(str(target.get("kind")))
    return None if make is None else make(target)


def classes_target(*, names: Sequence[str], counts: Sequence[int]) -> dict[str, Any]:
    """The entry `target` of the spec for classes: their names, and how many samples of the training split are of each."""
    return {"kind": "classes", "names": list(names), "counts": list(counts)}


def labels_target(*, names: Sequence[str], training: Shaped[Tensor, "samples labels"]) -> dict[str, Any]:
    """The entry `target` of the spec for labels: their names, and how often each occurs in the training split.

    Args:
        names: of the labels.
        training: targets of the training split, 0 or 1.
    """
    _check_columns(names, training)
    return {
        "kind": "labels",
        "names": list(names),
        "positives": (training > 0.5).sum(dim=0).tolist(),
        "samples": len(training),
    }


def values_target(*, names: Sequence[str], training: Float[Tensor, "samples values"]) -> dict[str, Any]:
    """The entry `target` of the spec for values: their names, and mean and standard deviation over the training split.

    A value that never varies gets the standard deviation 1.

    Args:
        names: of the values.
        training: targets of the training split.

    Raises:
        ValueError: no samples, values that are NaN or infinite, or another number of them than names.
    """
    _check_columns(names, training)
    if len(training) == 0 or not bool(training.isfinite().all()):
        raise ValueError(f"values_target.training: expected one or more rows of finite values, got {tuple(training.shape)}.")
    exact = training.double()
    std = exact.std(dim=0, correction=0)
    # What rounding leaves of a constant is no variation.
    varies = std > 1e-12 * exact.abs().amax(dim=0)
    return {
        "kind": "values",
        "names": list(names),
        "mean": exact.mean(dim=0).tolist(),
        "std": torch.where(varies, std, torch.ones_like(std)).tolist(),
    }


def _check_columns(names: Sequence[str], training: Tensor) -> None:
    if training.shape[1] != len(names):
        raise ValueError(f"names: expected one for each of the {training.shape[1]} columns of training, got {len(names)}.")
