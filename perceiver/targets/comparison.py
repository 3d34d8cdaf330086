"""Prediction and truth of one sample, as figures show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Prediction and truth of one sample, as text.

    Args:
        predicted, true: short texts.
        correct: whether the prediction is correct; None for numeric targets.
        loss: orders samples; the worst have the largest loss.
    """

    predicted: str
    true: str
    correct: bool | None
    loss: float
