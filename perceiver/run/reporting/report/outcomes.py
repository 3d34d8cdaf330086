"""Results of the test split beyond its mean metrics: confidence intervals, results by class, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from perceiver.plots.supervised.calibration import Bin

NUM_BINS = 15
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A mean over samples and its 95% confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassResult:
    """Result of a class.

    Args:
        name: name of the class.
        samples: number of samples of the class.
        precision: share of correct predictions among those of this class; NaN without any.
        recall: share of the class's samples that are predicted as it; NaN without any.
        f1: harmonic mean of both.
    """

    name: str
    samples: int
    precision: float
    recall: float
    f1: float


def bootstrap(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> Interval:
    """Return the mean and the 2.5 and 97.5 percentiles of the means of 1000 resamples (Efron 1979), with a fixed seed."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    if set(np.unique(x).tolist()) <= {0.0, 1.0}:
        # Resampled sums of zeros and ones are binomial.
        means = generator.binomial(len(x), x.mean(), size=RESAMPLES) / len(x)
    else:
        means = np.array([x[generator.integers(len(x), size=len(x))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high))


def by_class(
    outputs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"], names: Sequence[str]
) -> list[ClassResult]:
    """Return the result of each class."""
    predicted, results = outputs.argmax(dim=1), []
    for number, name in enumerate(names):
        hit = int(((predicted == number) & (target == number)).sum())
        said, there = int((predicted == number).sum()), int((target == number).sum())
        precision = hit / said if said else float("nan")
        recall = hit / there if there else float("nan")
        f1 = 2 * hit / (said + there) if said + there else float("nan")
        results.append(ClassResult(name, there, precision, recall, f1))
    return results


def calibration(outputs: Float[Tensor, "samples classes"], target: Int[Tensor, "samples"]) -> tuple[list[Bin], float]:
    """Return non-empty bins of equal width and the expected calibration error (Guo et al. 2017, section 2)."""
    probability, predicted = outputs.double().softmax(dim=1).max(dim=1)
    correct = (predicted == target).double()
    place = (probability * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bins, error = [], 0.0
    for number in place.unique().tolist():
        own = place == number
        count = int(own.sum())
        mean, share = float(probability[own].mean()), float(correct[own].mean())
        error += count / len(target) * abs(mean - share)
        bins.append(Bin(number / NUM_BINS, (number + 1) / NUM_BINS, count, mean, share))
    return bins, error


@dataclass
class Collected:
    """Outputs `(B, c)` and targets of the test split, batch by batch."""

    outputs: list[Tensor]
    targets: list[Tensor]
    elements: int = 0

    def joined(self) -> tuple[Tensor, Tensor] | None:
        """Return outputs and targets of all samples; None without any."""
        if not self.outputs:
            return None
        return torch.cat(self.outputs), torch.cat(self.targets)
