"""Ratio and length of what `torchaudio.functional.resample` reads. Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

ZEROS = 6
"""Zero crossings of the filter on each side."""
ROLLOFF = 0.99
"""Cutoff of the filter, as a share of the lower rate."""

_MOST = 1024  # largest factor of the number of samples, up or down
_MOST_COEFFICIENTS = 2**22
_MOST_PHASES = 2000


def most_samples(spec: Mapping[str, Any]) -> int | None:
    """Return the number of samples to which the spec of a modality cuts sound; None: it does not."""
    seconds = spec.get("max_seconds")
    return None if seconds is None else samples_of(seconds, spec["sample_rate"])


def samples_of(seconds: float, rate: int) -> int:
    """Return the number of samples of a length of time, 1 or more."""
    return max(1, round(seconds * rate))


def resampling_ratio(rate: int, wanted: int, name: str) -> tuple[int, int]:
    """Return `rate` and `wanted` without their common divisor.

    The filter has coefficients for each of `wanted` phases of `rate` samples, both divided by their greatest common divisor.
    If that is small, the filter takes gigabytes; the ratio is then replaced by the nearest fraction of smaller numbers,
    which changes pitch and duration by less than a thousandth.

    Args:
        rate: samples per second.
        wanted: samples per second after resampling.
        name: name of the sample in error messages.

    Raises:
        ValueError: the rates differ too much.

    Examples:
        >>> resampling_ratio(44100, 16000, "x")
        (441, 160)
    """
    if rate < 1 or not 1 / _MOST <= wanted / rate <= _MOST:
        raise ValueError(
            f"{name}: expected a sample rate of {-(-wanted // _MOST)} to {wanted * _MOST} Hz for resampling to {wanted} Hz, "
            f"got {rate} Hz. Resample it with another tool."
        )
    common = math.gcd(rate, wanted)
    if wanted // common * (rate // common + 16) > _MOST_COEFFICIENTS:
        ratio = Fraction(min(rate, wanted), max(rate, wanted)).limit_denominator(_MOST_PHASES)
        small, large = ratio.numerator, ratio.denominator
        return (small, large) if rate < wanted else (large, small)
    return rate // common, wanted // common


def filter_width(rate: int, wanted: int) -> int:
    """Return the number of samples on each side of a sample that the filter reads."""
    return math.ceil(ZEROS * rate / (min(rate, wanted) * ROLLOFF))


def samples_read(count: int, rate: int, wanted: int) -> int:
    """Return the number of samples that determine the first `count` samples after resampling.

    Args:
        count: number of samples after resampling.
        rate, wanted: see `resampling_ratio`, which returns them.

    Examples:
        >>> samples_read(160, 441, 160)
        458
    """
    return -(-count // wanted) * rate + filter_width(rate, wanted)
