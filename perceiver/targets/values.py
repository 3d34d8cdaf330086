"""Kind of target: values per sample, normalised by the training split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison
from perceiver.targets.labels import check_columns
from perceiver.targets.predictions import ValuesPrediction


@dataclass(frozen=True)
class ValuesTarget:
    """Target with values per sample; outputs are normalised by the training split's mean and standard deviation.

    Args:
        names: value names, in the order of the outputs.
        mean, std: mean and standard deviation per value, in the units of the data.
    """

    names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]

    def predict(self, outputs: Float[Tensor, "batch values"]) -> list[ValuesPrediction]:
        """Return predictions with normalisation undone, in float64 to keep the digits of large means."""
        mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.std))
        values = (outputs.double().cpu() * std + mean).tolist()
        return [ValuesPrediction(dict(zip(self.names, row, strict=True))) for row in values]

    def compare(self, outputs: Float[Tensor, "batch values"], target: Shaped[Tensor, "batch *values"]) -> list[Comparison]:
        """Compare by the mean absolute error over the values, in standard deviations."""
        truths = target.reshape(len(target), -1).double().cpu()
        comparisons = []
        for one, truth in zip(self.predict(outputs), truths.tolist(), strict=True):
            predicted = list(one.values.values())
            distances = [abs(a - b) / s for a, b, s in zip(predicted, truth, self.std, strict=True)]
            shown, real = (", ".join(f"{number:.3g}" for number in numbers) for numbers in (predicted, truth))
            comparisons.append(Comparison(shown, real, correct=None, loss=sum(distances) / len(distances)))
        return comparisons


def values_target(*, names: Sequence[str], training: Float[Tensor, "samples values"]) -> dict[str, Any]:
    """Return the spec's entry `target` for values: names, and mean and standard deviation over the training split.

    A constant value gets the standard deviation 1.

    Args:
        names: value names.
        training: targets of the training split.

    Raises:
        ValueError: without samples, for NaN or infinity, or if the numbers of values and names differ.
    """
    check_columns(names, training)
    if len(training) == 0 or not bool(training.isfinite().all()):
        raise ValueError(f"values_target.training: expected one or more rows of finite values, got {tuple(training.shape)}.")
    exact = training.double()
    std = exact.std(dim=0, correction=0)
    # Rounding errors of a constant are not variation.
    varies = std > 1e-12 * exact.abs().amax(dim=0)
    return {
        "kind": "values",
        "names": list(names),
        "mean": exact.mean(dim=0).tolist(),
        "std": torch.where(varies, std, torch.ones_like(std)).tolist(),
    }
