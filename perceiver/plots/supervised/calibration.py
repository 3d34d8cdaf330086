"""Figure of calibration: how often predictions of a probability are correct (reliability diagram)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Bin:
    """Predictions whose probability lies in an interval.

    Args:
        low, high: bounds of the interval.
        count: number of predictions.
        probability: their mean probability.
        correct: share of correct predictions.
    """

    low: float
    high: float
    count: int
    probability: float
    correct: float


def reliability_diagram(bins: Sequence[Bin], *, error: float) -> Figure:
    """Draw the share of correct predictions over their probability, and how many predictions each interval has.

    Args:
        bins: intervals with at least one prediction.
        error: the expected calibration error.
    """
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = bins[0].high - bins[0].low if bins else 0.1
    centres = [(one.low + one.high) / 2 for one in bins]
    above.bar(centres, [one.correct for one in bins], width=0.95 * width, color="#1f77b4", alpha=0.8)
    above.plot([0, 1], [0, 1], color="#7f7f7f", linewidth=1, linestyle="--")
    above.plot([one.probability for one in bins], [one.correct for one in bins], "o", color="#d62728", markersize=4)
    above.set(ylabel="share correct", ylim=(0, 1), title=f"expected calibration error {error:.3f}")
    below.bar(centres, [one.count for one in bins], width=0.95 * width, color="#7f7f7f")
    below.set(xlabel="probability of the predicted class", ylabel="samples", xlim=(0, 1))
    return figure
