"""Position encodings: callables from coordinates to parts of `Tokens`, with an attribute `channels`.

Coordinates are float32 in [-1, 1] under every precision setting. They have the form of parts: one tensor
`(B or 1, …, n, …, 1)` per axis of a grid, or one tensor `(B, P, k)` for a set of points in k dimensions. They come from the
valid size of each sample or from an absolute scale, never from the padded size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_positive
from perceiver.tokens.masks import extents


@runtime_checkable
class PositionEncoding(Protocol):
    """The interface of position encodings: an `nn.Module`, or any callable with the attribute `channels`.

    Examples:
        >>> from perceiver import Fourier
        >>> from perceiver.tokens.positions import PositionEncoding
        >>> isinstance(Fourier(num_bands=4, resolution=(28, 28)), PositionEncoding)
        True
    """

    channels: int

    def __call__(self, coordinates: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Encode coordinates `(B or 1, n1 or 1, …, k)` as parts `(B or 1, n1 or 1, …, c)`; all c sum to `channels`."""
        ...


MAX_RESOLUTION = 2**31
"""Largest reference resolution; the phases of larger ones exceed float32."""


class Fourier(nn.Module):
    """Fourier features of coordinates: the coordinate, then sines, then cosines of pi * f * coordinate.

    The frequencies f are `linspace(1, resolution / 2, num_bands)`: the highest is the Nyquist frequency of the reference
    resolution (Perceiver, section 3.2). Nothing is learned.

    Args:
        num_bands: number of frequencies per coordinate; 0 keeps only the coordinate.
        resolution: the reference number of elements across [-1, 1], for each coordinate.
        by_coordinate: group the channels by coordinate. False: all coordinates, then all sines, then all cosines, as in the
            published code. Weights that only one modality uses can be reordered instead; weights shared by several
            modalities, as in the released multimodal autoencoder, cannot.

    Examples:
        >>> from perceiver import Fourier
        >>> from perceiver.tokens.positions import grid_coordinates
        >>> position = Fourier(num_bands=4, resolution=(28, 28))
        >>> position.channels
        18
        >>> [tuple(part.shape) for part in position(grid_coordinates((28, 28)))]
        [(1, 28, 1, 9), (1, 1, 28, 9)]
    """

    def __init__(self, *, num_bands: int, resolution: Sequence[float], by_coordinate: bool = True) -> None:
        super().__init__()
        if num_bands < 0:
            raise ValueError(f"Fourier.num_bands: expected 0 or more, got {num_bands}.")
        if not resolution or any(not 0 < size <= MAX_RESOLUTION for size in resolution):
            raise ValueError(
                f"Fourier.resolution: expected one positive number per coordinate, at most {MAX_RESOLUTION:,}, got "
                f"{list(resolution)}."
            )
        self.num_bands = num_bands
        self.by_coordinate = by_coordinate
        self.resolution = tuple(float(size) for size in resolution)
        self.channels = len(self.resolution) * (2 * num_bands + 1)

    def frequencies(self, device: torch.device | None = None) -> Float[Tensor, "coordinates bands"]:
        """Return f in float32. It is computed on demand, so that no module-wide cast to bfloat16 can affect it."""
        # Made on the CPU, whatever the default device: the same numbers everywhere.
        bands = [
            torch.linspace(1.0, size / 2, self.num_bands, dtype=torch.float32, device="cpu") for size in self.resolution
        ]
        return torch.stack(bands).to(device)

    def forward(self, coordinates: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Encode coordinates `(B or 1, *grid or 1, k)` as parts `(B or 1, *grid or 1, k * (2 * num_bands + 1))`.

        Without `by_coordinate` each yields three parts, of k, k * num_bands and k * num_bands channels.

        Raises:
            ValueError: if the number of coordinates, in all tensors together, differs from the length of `resolution`.
        """
        counts = [axis.shape[-1] for axis in coordinates]
        if sum(counts) != len(self.resolution):
            raise ValueError(
                f"Fourier: resolution names {len(self.resolution)} coordinates, but got {sum(counts)} "
                f"(shapes {[tuple(axis.shape) for axis in coordinates]})."
            )
        frequencies = self.frequencies(coordinates[0].device)
        features = []
        for axis, own in zip(coordinates, frequencies.split(counts), strict=True):
            # Float32 by hand, autocast or not: in bfloat16 the phase error reaches 1.7 radians.
            with torch.autocast(axis.device.type, enabled=False):
                position = axis.to(torch.float32)[..., None]
                # In the order of the published code: imported weights see the same digits.
                phase = position * own * math.pi
                features.append((position, phase.sin(), phase.cos()))
        if self.by_coordinate:
            return tuple(torch.cat(own, dim=-1).flatten(-2) for own in features)
        return tuple(one.flatten(-2) for alike in zip(*features, strict=True) for one in alike)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"num_bands={self.num_bands}, resolution={self.resolution}"


class LearnedTable(nn.Module):
    """A learned vector for each element of a reference grid, with linear interpolation between elements.

    Coordinate -1 is the first row of the table and 1 the last. A sample of the reference size reads the table unchanged;
    another size reads it stretched or, with absolute coordinates, cut.

    Args:
        grid: the reference grid (n1, …, nd).
        channels: width of each vector.
        std: standard deviation of the initial values (Perceiver, section 3.2: 0.02, truncated at two).

    Examples:
        >>> from perceiver import LearnedTable
        >>> from perceiver.tokens.positions import grid_coordinates
        >>> position = LearnedTable(grid=[7, 7], channels=64)
        >>> [tuple(part.shape) for part in position(grid_coordinates((7, 7)))]
        [(1, 7, 7, 64)]
        >>> [tuple(part.shape) for part in position(grid_coordinates((14, 10)))]  # interpolated
        [(1, 14, 10, 64)]
    """

    def __init__(self, *, grid: Sequence[int], channels: int, std: float = 0.02) -> None:
        super().__init__()
        if not grid or any(size < 1 for size in grid) or channels < 1:
            raise ValueError(f"LearnedTable: expected positive grid sizes and channels, got {list(grid)}, {channels}.")
        check_positive("LearnedTable", std=std)
        self.channels = channels
        self.table = nn.Parameter(torch.empty(*grid, channels))
        truncated_normal_(self.table, std=std)

    def forward(self, coordinates: Sequence[Tensor]) -> tuple[Float[Tensor, "..."]]:
        """Encode coordinates `(B or 1, *grid or 1, 1)`, one per axis of the table, as one part `(B or 1, *grid, c)`.

        A set of points `(B, P, d)` gives `(B, P, c)`.
        """
        sizes = self.table.shape[:-1]
        axes = [axis.to(torch.float32) for tensor in coordinates for axis in tensor.unbind(-1)]
        if len(axes) != len(sizes):
            raise ValueError(f"LearnedTable: the table has {len(sizes)} axes, but got {len(axes)} coordinates.")
        indices = []
        for axis, size in zip(axes, sizes, strict=True):
            index = ((axis + 1) * (0.5 * (size - 1))).clamp(0, size - 1)
            # Float32 rounding, which grows with the table, must not move an element off its own row.
            tolerance = max(1e-4, size * 2**-22)
            indices.append(torch.where((index - index.round()).abs() < tolerance, index.round(), index))
        if self._is_reference_grid(indices):
            return (self.table[None],)
        return (self._interpolate(indices),)

    def _is_reference_grid(self, indices: Sequence[Tensor]) -> bool:
        """Whether the indices are the grid of the table, which saves the gathers; False while tracing."""
        if torch.compiler.is_compiling():
            return False
        rank = len(indices)
        for axis, index in enumerate(indices):
            size = self.table.shape[axis]
            shape = tuple(size if other == axis + 1 else 1 for other in range(rank + 1))
            if index.shape != shape or not torch.equal(index.flatten(), torch.arange(size, device=index.device).to(index)):
                return False
        return True

    def _interpolate(self, indices: Sequence[Tensor]) -> Tensor:
        """Interpolate multilinearly: sum over the 2^d corners around each element."""
        lower = [index.floor().long() for index in indices]
        upper = [index.ceil().long() for index in indices]
        fraction = [(index - index.floor())[..., None].to(self.table.dtype) for index in indices]
        corners = []
        for corner in itertools.product((False, True), repeat=len(indices)):
            picks = tuple(upper[axis] if high else lower[axis] for axis, high in enumerate(corner))
            shares = [fraction[axis] if high else 1 - fraction[axis] for axis, high in enumerate(corner)]
            corners.append(self.table[picks] * math.prod(shares[1:], start=shares[0]))
        return sum(corners[1:], start=corners[0])

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"grid={tuple(self.table.shape[:-1])}, channels={self.channels}"


class Projected(nn.Module):
    """A linear map of another encoding to another width, as in the published learned positions of images.

    Args:
        position: any encoding; several parts are multiplied out.
        channels: of the result.

    Examples:
        >>> from perceiver import LearnedTable, Projected
        >>> position = Projected(position=LearnedTable(grid=[7, 7], channels=64), channels=16)
        >>> position.channels
        16
    """

    def __init__(self, *, position: PositionEncoding, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"Projected.channels: expected at least 1, got {channels}.")
        self.position = position
        self.channels = channels
        self.projection = nn.Linear(position.channels, channels)

    def forward(self, coordinates: Sequence[Tensor]) -> tuple[Float[Tensor, "..."]]:
        """Encode coordinates, as for the inner encoding, as one part `(B or 1, *grid, channels)`."""
        parts = self.position(coordinates)
        extent = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        whole = torch.cat([part.expand(*extent, part.shape[-1]) for part in parts], dim=-1)
        return (self.projection(whole.to(self.projection.weight.dtype)),)


def grid_coordinates(
    grid: Sequence[int],
    *,
    mask: Bool[Tensor, "batch *grid"] | None = None,
    device: torch.device | None = None,
) -> tuple[Float[Tensor, "..."], ...]:
    """Return the coordinates of a grid relative to the size of each sample: `torch.linspace(-1, 1, n)` along every axis.

    Args:
        grid: (n1, …, nd), the padded size.
        mask: `(B, *grid)`; the valid size of a sample is the smallest box from the origin that holds its valid elements.
            None: all samples fill the grid.

    Returns:
        d tensors, the k-th `(B or 1, 1, …, n_k, …, 1, 1)`, float32; elements past the valid size exceed 1.

    Examples:
        >>> from perceiver.tokens.positions import grid_coordinates
        >>> rows, columns = grid_coordinates((3, 5))
        >>> rows.flatten().tolist(), columns.flatten().tolist()
        ([-1.0, 0.0, 1.0], [-1.0, -0.5, 0.0, 0.5, 1.0])
    """
    sizes = None if mask is None else extents(mask)
    coordinates = []
    for axis, length in enumerate(grid):
        place = device if mask is None else mask.device
        # With a step in float32 and all else in float64 these are torch.linspace's digits, and those of published models.
        precise = torch.float32 if place is not None and place.type == "mps" else torch.float64
        steps = torch.arange(length, dtype=precise, device=place)[None]
        count = torch.full_like(steps[:, :1], length) if sizes is None else sizes[axis][:, None].to(precise)
        last = (count - 1).clamp(min=1)
        step = (2 / last.to(torch.float32)).to(precise)
        values = torch.where(steps < torch.floor(count / 2), -1 + steps * step, 1 - (last - steps) * step).to(torch.float32)
        shape = [1] * (len(grid) + 2)
        shape[0], shape[axis + 1] = values.shape[0], length
        coordinates.append(values.reshape(shape))
    return tuple(coordinates)


def time_coordinates(
    num: int,
    *,
    step_seconds: float,
    duration_seconds: float,
    offset_seconds: float = 0.0,
    device: torch.device | None = None,
) -> Float[Tensor, "1 time 1"]:
    """Return the absolute time of evenly spaced frames, scaled so that [0, duration] becomes [-1, 1].

    Args:
        num: number of frames T.
        step_seconds: interval between frames.
        duration_seconds: reference duration; longer recordings exceed 1.
        offset_seconds: time of the first frame.

    Returns:
        `(1, T, 1)`, float32, computed in float64.

    Examples:
        >>> from perceiver.tokens.positions import time_coordinates
        >>> time_coordinates(5, step_seconds=0.5, duration_seconds=2.0).flatten().tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    # On the CPU: not every accelerator has float64.
    times = torch.arange(num, dtype=torch.float64) * step_seconds + offset_seconds
    return (-1 + 2 * times / duration_seconds).to(torch.float32).reshape(1, num, 1).to(device)


def relative_time_coordinates(
    times: Float[Tensor, "batch time"],
    *,
    mask: Bool[Tensor, "batch time"] | None = None,
    duration_seconds: float,
) -> Float[Tensor, "batch time 1"]:
    """Return times relative to the first valid time of each sample, scaled so that [0, duration] becomes [-1, 1].

    Args:
        times: `(B, T)` in seconds, at irregular intervals; float64 for large values, such as those of a clock.
        mask: `(B, T)`, True for valid times; None: all are valid. Masked times, NaN included, become -1.
        duration_seconds: reference duration; longer series exceed 1.

    Returns:
        `(B, T, 1)`, float32, computed in float64: the difference of two times since 1970 keeps its microseconds.

    Examples:
        >>> import torch
        >>> from perceiver.tokens.positions import relative_time_coordinates
        >>> times = torch.tensor([[1000.0, 1001.0, 1004.0]], dtype=torch.float64)
        >>> relative_time_coordinates(times, duration_seconds=4.0).flatten().tolist()
        [-1.0, -0.5, 1.0]
    """
    times = times.to(torch.float64)
    if mask is None:
        since = times - times.amin(dim=1, keepdim=True)
    else:
        first = torch.where(mask, times, torch.inf).amin(dim=1, keepdim=True)
        since = torch.where(mask, times - first, 0.0)
    return (-1 + 2 * since / duration_seconds).to(torch.float32)[..., None]


def index_coordinates(num: int, *, reference_length: int, device: torch.device | None = None) -> Float[Tensor, "1 length 1"]:
    """Return positions in a sequence, counted from its start: 0 becomes -1 and reference_length - 1 becomes 1.

    Returns:
        `(1, num, 1)`, float32; positions past the reference length exceed 1.

    Examples:
        >>> from perceiver.tokens.positions import index_coordinates
        >>> index_coordinates(3, reference_length=5).flatten().tolist()
        [-1.0, -0.5, 0.0]
    """
    places = torch.arange(num, dtype=torch.float32, device=device)
    return (-1 + 2 * places / max(reference_length - 1, 1)).reshape(1, num, 1)
