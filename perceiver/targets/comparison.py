"""One sample's prediction beside its truth, as figures show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """One sample's prediction beside its truth, in words.

    Args:
        predicted, true: short texts.
        correct: None where there is no right and wrong, only nearer and farther.
        loss: orders samples, the worst have the largest.
    """

    predicted: str
    true: str
    correct: bool | None
    loss: float
