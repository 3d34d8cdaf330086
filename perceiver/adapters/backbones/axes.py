"""Coordinates of the features of a network: rows and columns, times, or places in a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.runtime.ranges import check_positive
from perceiver.tokens.positions import grid_coordinates, index_coordinates, time_coordinates


class Axes(nn.Module, ABC):
    """Coordinates for the position encoding of a `Backbone`. It has no parameters; modules can be named in checkpoints."""

    @abstractmethod
    def forward(
        self, grid: Sequence[int], *, mask: Bool[Tensor, "batch *grid"] | None, device: torch.device
    ) -> tuple[Float[Tensor, "..."], ...]:
        """Return a tensor of coordinates for each axis of the grid.

        Args:
            grid: padded size.
            mask: validity of features of samples of different sizes; None: all samples fill the grid.
            device: device of the result.
        """


@final
class RowsAndColumns(Axes):
    """Coordinates from -1 to 1 along every axis, relative to the valid size of each sample.

    Args:
        fixed: relative to the size of the grid instead, for networks that pad their input to a fixed size.
    """

    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(
        self, grid: Sequence[int], *, mask: Bool[Tensor, "batch *grid"] | None, device: torch.device
    ) -> tuple[Float[Tensor, "..."], ...]:
        """See `Axes.forward`."""
        return grid_coordinates(grid, mask=None if self.fixed else mask, device=device)


@final
class Times(Axes):
    """Times of evenly spaced features: 0 seconds becomes -1, `duration_seconds` becomes 1.

    Args:
        step_seconds: interval between features.
        duration_seconds: reference duration; features of longer recordings exceed 1.
    """

    def __init__(self, *, step_seconds: float, duration_seconds: float) -> None:
        super().__init__()
        check_positive("Times", step_seconds=step_seconds, duration_seconds=duration_seconds)
        self.step_seconds = step_seconds
        self.duration_seconds = duration_seconds

    def forward(
        self, grid: Sequence[int], *, mask: Bool[Tensor, "batch *grid"] | None, device: torch.device
    ) -> tuple[Float[Tensor, "..."], ...]:
        """See `Axes.forward`."""
        times = time_coordinates(
            grid[0],
            step_seconds=self.step_seconds,
            duration_seconds=self.duration_seconds,
            offset_seconds=self.step_seconds / 2,
            device=device,
        )
        return (times,)


@final
class Words(Axes):
    """Places in a sequence: the first becomes -1, place `reference_length` - 1 becomes 1."""

    def __init__(self, *, reference_length: int) -> None:
        super().__init__()
        if reference_length < 2:
            raise ValueError(f"Words.reference_length: expected at least 2 positions, got {reference_length}.")
        self.reference_length = reference_length

    def forward(
        self, grid: Sequence[int], *, mask: Bool[Tensor, "batch *grid"] | None, device: torch.device
    ) -> tuple[Float[Tensor, "..."], ...]:
        """See `Axes.forward`."""
        return (index_coordinates(grid[0], reference_length=self.reference_length, device=device),)
