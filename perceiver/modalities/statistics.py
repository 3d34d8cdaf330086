"""Mean and standard deviation of the channels of training samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def channel_statistics(samples: Iterable[Tensor], *, channel_axis: int) -> dict[str, list[float]]:
    """Return `mean` and `std` of each channel over all elements of all samples, for the spec.

    Args:
        samples: `(C, *grid)` with `channel_axis=0`, `(*grid, C)` with -1.
        channel_axis: axis of the channels.

    Raises:
        ValueError: without samples.
    """
    moments = Moments()
    for x in samples:
        moments.add(x.movedim(channel_axis, -1).flatten(0, -2))
    return moments.entries()


class Moments:
    """Mean and standard deviation of each column of `(n, C)`, block by block, by Welford's method for stability."""

    def __init__(self) -> None:
        self._count: Tensor | float = 0.0
        self._mean: Tensor | float = 0.0
        self._moment: Tensor | float = 0.0

    def add(self, values: Tensor, present: Tensor | None = None) -> None:
        """Add a block `(n, C)`; values with `present` False are ignored."""
        values = values.double()
        weight = torch.ones_like(values) if present is None else present.double()
        count = weight.sum(dim=0)
        mean = (values * weight).sum(dim=0) / count.clamp(min=1)
        moment = ((values - mean).square() * weight).sum(dim=0)
        both = self._count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * count / both.clamp(min=1)
        self._moment = self._moment + moment + delta.square() * self._count * count / both.clamp(min=1)
        self._count = both

    def entries(self) -> dict[str, list[float]]:
        """Return `mean` and `std`; ValueError if nothing was added."""
        require_any(int(isinstance(self._mean, Tensor)))
        assert isinstance(self._mean, Tensor)
        assert isinstance(self._moment, Tensor)
        assert isinstance(self._count, Tensor)
        means, stds = self._mean.tolist(), (self._moment / self._count.clamp(min=1)).sqrt().tolist()
        return {"mean": means, "std": [spread(std, abs(mean)) for std, mean in zip(stds, means, strict=True)]}


def spread(std: float, largest: float) -> float:
    """Return a standard deviation to divide by: 1 if it is rounding noise of values as large as `largest`."""
    return std if std > 1e-9 * largest else 1.0


def require_any(count: int) -> None:
    """Raise ValueError without samples."""
    if count == 0:
        raise ValueError("no training cell can be read.")
