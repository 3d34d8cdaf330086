"""Tokens: the output of adapters and input of the encoder, kept as parts that broadcast instead of one dense array.

An image is pixels `(B, H, W, 3)`, Fourier rows `(1, H, 1, 2b + 1)` and Fourier columns `(1, 1, W, 2b + 1)`. The dense array
would be `(B, H * W, 3 + 4b + 2)`, most of it repetition. Factored cross-attention works on the parts directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Tokens:
    """Input elements on a grid G = (n1, …, nd), in parts that broadcast over batch and grid and concatenate along channels.

    Args:
        parts: at least one tensor `(B or 1, n1 or 1, …, nd or 1, c)`, all floating point and of the same rank >= 3.
        mask: `(B or 1, *G)` boolean, True where an element is valid; None where all are.

    Raises:
        ValueError: if the parts do not broadcast against each other and the mask.
        TypeError: if a part is not floating point or the mask is not boolean.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> pixels, rows, columns = torch.rand(2, 32, 48, 3), torch.rand(1, 32, 1, 9), torch.rand(1, 1, 48, 9)
        >>> tokens = Tokens(parts=(pixels, rows, columns))
        >>> tokens.grid, tokens.num_tokens, tokens.channels
        ((32, 48), 1536, 21)
        >>> tokens.dense().shape
        torch.Size([2, 1536, 21])
    """

    parts: tuple[Tensor, ...]
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Tokens.parts: expected at least one tensor (batch, *grid, channels), got an empty tuple.")
        ranks = {part.ndim for part in self.parts}
        if len(ranks) != 1 or min(ranks) < 3:
            raise ValueError(
                "Tokens.parts: expected tensors (batch, *grid, channels) of the same rank, at least 3; got shapes "
                f"{[tuple(part.shape) for part in self.parts]}. Use size 1 on the axes along which a part is constant."
            )
        if not all(part.is_floating_point() for part in self.parts):
            raise TypeError(
                f"Tokens.parts: expected floating point, got {[part.dtype for part in self.parts]}; use `x.float()`."
            )
        if self.mask is not None:
            if self.mask.dtype != torch.bool:
                raise TypeError(f"Tokens.mask: expected dtype bool (True = valid), got {self.mask.dtype}.")
            if self.mask.ndim != self.parts[0].ndim - 1:
                raise ValueError(
                    f"Tokens.mask: expected (batch, *grid) of rank {self.parts[0].ndim - 1}, got {tuple(self.mask.shape)}."
                )
        extent = self._extent()
        for shape in self._shapes():
            if any(size not in (1, whole) for size, whole in zip(shape, extent, strict=True)):
                mask = None if self.mask is None else tuple(self.mask.shape)
                raise ValueError(
                    "Tokens: parts and mask do not broadcast over batch and grid: parts "
                    f"{[tuple(part.shape) for part in self.parts]}, mask {mask}."
                )

    def _shapes(self) -> list[torch.Size]:
        shapes = [part.shape[:-1] for part in self.parts]
        return shapes if self.mask is None else [*shapes, self.mask.shape]

    def _extent(self) -> torch.Size:
        """Return shape (B, *grid) to which the parts and the mask broadcast."""
        # torch.broadcast_shapes takes 0.2 ms, half as long as a small cross-attend.
        return torch.Size(next((size for size in sizes if size != 1), 1) for sizes in zip(*self._shapes(), strict=True))

    @property
    def batch(self) -> int:
        """B; 1 if neither a part nor the mask depends on the sample."""
        return self._extent()[0]

    @property
    def grid(self) -> tuple[int, ...]:
        """G = (n1, …, nd)."""
        return tuple(self._extent()[1:])

    @property
    def num_tokens(self) -> int:
        """M, the product of the grid."""
        return prod(self.grid)

    @property
    def channels(self) -> int:
        """C, the total number of channels over all parts."""
        return sum(part.shape[-1] for part in self.parts)

    @property
    def device(self) -> torch.device:
        """The device of the first part."""
        return self.parts[0].device

    def append(self, part: Float[Tensor, "..."]) -> Tokens:
        """Return the same tokens with an additional part."""
        return replace(self, parts=(*self.parts, part))

    def cleaned(self) -> Tokens:
        """Return the same tokens with zeros for all values that only masked elements see, at each part's own shape.

        No masked NaN or infinity reaches arithmetic afterwards. A value shared by several elements (a row feature, say)
        is kept if any of them is valid.
        """
        if self.mask is None:
            return self
        return replace(self, parts=tuple(_zero_unseen(part, self.mask) for part in self.parts))

    def dense(self) -> Float[Tensor, "batch tokens channels"]:
        """Expand and concatenate the parts to `(B, M, C)`, with zeros for masked elements."""
        extent = self._extent()
        dtype = reduce(torch.promote_types, (part.dtype for part in self.parts))
        expanded = [part.to(dtype).expand(*extent, part.shape[-1]) for part in self.parts]
        dense = torch.cat(expanded, dim=-1)
        if self.mask is not None:
            dense = torch.where(self.mask[..., None], dense, dense.new_zeros(()))
        return dense.reshape(extent[0], -1, dense.shape[-1])

    def dense_mask(self) -> Bool[Tensor, "batch tokens"] | None:
        """Return the mask as `(B, M)`, or None if all elements are valid."""
        if self.mask is None:
            return None
        extent = self._extent()
        return self.mask.expand(extent).reshape(extent[0], -1)

    def take(self, index: Int[Tensor, "k"] | Int[Tensor, "batch k"]) -> Tokens:
        """Select elements by their position in the flattened grid; the result has the one-axis grid `(k,)`.

        Args:
            index: `(k,)` for the same elements of every sample, or `(B, k)`; values in [0, M).

        Returns:
            Tokens whose parts are `(B or 1, k or 1, c)`: sampled elements no longer form the grid.

        Raises:
            ValueError: if an index `(B, k)` does not match the batch size.
        """
        batch, *grid = self._extent()
        if index.ndim not in (1, 2) or (index.ndim == 2 and batch not in (1, index.shape[0])):
            raise ValueError(f"Tokens.take: expected an index (k,) or ({batch}, k), got {tuple(index.shape)}.")
        coordinates = _unravelled(index, grid)
        parts = tuple(_gather(part, coordinates) for part in self.parts)
        if prod(grid) == 1:
            # No part has a grid axis that would record how often the only element was taken.
            parts = (parts[0].expand(-1, index.shape[-1], -1), *parts[1:])
        mask = None if self.mask is None else _gather(self.mask[..., None], coordinates)[..., 0]
        return Tokens(parts=parts, mask=mask)

    def chunks(self, size: int) -> Iterator[Tokens]:
        """Yield all elements in order, at most `size` at a time, each chunk with a one-axis grid."""
        if size < 1:
            raise ValueError(f"Tokens.chunks: size must be at least 1, got {size}.")
        total = self.num_tokens
        for start in range(0, total, size):
            yield self.take(torch.arange(start, min(start + size, total), device=self.device))


def _zero_unseen(part: Tensor, mask: Tensor) -> Tensor:
    """Zero the values of `part` that no valid element sees; the result has the part's own shape."""
    seen = mask
    for axis in range(mask.ndim):
        if part.shape[axis] == 1 and mask.shape[axis] != 1:
            seen = seen.any(dim=axis, keepdim=True)
    return torch.where(seen[..., None], part, part.new_zeros(()))


def _unravelled(index: Tensor, grid: list[int]) -> tuple[Tensor, ...]:
    """Compute `torch.unravel_index`, which torch.export cannot trace for a grid of open sizes."""
    coordinates: list[Tensor] = []
    for size in reversed(grid[1:]):
        coordinates.insert(0, index % size)
        index = index.div(size, rounding_mode="floor")
    return (index, *coordinates)


def _gather(part: Tensor, coordinates: tuple[Tensor, ...]) -> Tensor:
    """Gather elements of a part at grid coordinates `(k,)` or `(B, k)` per axis -> `(B or 1, k or 1, c)`."""
    if all(size == 1 for size in part.shape[1:-1]):
        return part.reshape(part.shape[0], 1, part.shape[-1])
    index = [axis if size != 1 else torch.zeros_like(axis) for axis, size in zip(coordinates, part.shape[1:-1], strict=True)]
    if index[0].ndim == 1:
        shared: tuple[slice | Tensor, ...] = (slice(None), *index)
        return part[shared]
    samples = torch.arange(index[0].shape[0], device=part.device)[:, None]
    per_sample: list[Tensor] = [samples if part.shape[0] != 1 else torch.zeros_like(samples), *index]
    return part[tuple(per_sample)]
