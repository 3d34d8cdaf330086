"""Range checks for the numbers that constructors take. NaN always fails."""

from __future__ import annotations

import math


def check_at_least_one(owner: str, **numbers: int) -> None:
    """Raise ValueError, naming `owner` and the argument, unless every number is at least 1."""
    for name, number in numbers.items():
        if not number >= 1:
            raise ValueError(f"{owner}.{name}: expected at least 1, got {number}.")


def check_positive(owner: str, **numbers: float) -> None:
    """Raise ValueError, naming `owner` and the argument, unless every number is finite and above 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{owner}.{name}: expected a finite number above 0, got {number}.")


def check_dropout(owner: str, **probabilities: float) -> None:
    """Raise ValueError, naming `owner` and the argument, unless every probability of dropping is in [0, 1)."""
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise ValueError(f"{owner}.{name}: expected a probability of at least 0 and below 1, got {probability}.")
