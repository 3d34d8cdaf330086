"""Raw inputs of adapters, a tensor or a dict of tensors: select samples, crop, pad, and overwrite masked content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GridAxes = Sequence[int] | Mapping[str, Sequence[int]]
"""The axes of a batch that form its raw grid, in order: `(2, 3)` for images `(B, C, H, W)`, `(1,)` for point sets
`(B, P, 3)`, `()` if only whole samples can be masked. For a dict of tensors, the axes by name of the tensors that have a
grid, such as `{"values": (1,), "times": (1,)}`."""

_ONLY = ""  # name of a single tensor


@dataclass(frozen=True)
class RawInput:
    """A batch of a modality, as input of its adapter.

    Args:
        tensors: tensors by name, each `(B, …)`.
        axes: the grid axes of each tensor.
    """

    tensors: dict[str, Tensor]
    axes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, raw: Tensor | Mapping[str, Tensor], grid_axes: GridAxes) -> RawInput:
        """Wrap the result of a user's `make_input`.

        Raises:
            ValueError: for fewer than two samples, for axes that do not exist, or if grid sizes differ between tensors.
        """
        tensors = {_ONLY: raw} if isinstance(raw, Tensor) else dict(raw)
        if isinstance(grid_axes, Mapping) == isinstance(raw, Tensor) and grid_axes:
            raise ValueError(
                f"grid_axes: expected axes for a tensor, or a dict of axes for a dict of tensors, got {grid_axes}."
            )
        named = grid_axes if isinstance(grid_axes, Mapping) else {_ONLY: grid_axes} if isinstance(raw, Tensor) else {}
        if set(named) - set(tensors):
            raise ValueError(
                f"grid_axes: expected names among {sorted(tensors)}, the tensors of make_input, got {sorted(named)}."
            )
        axes = {name: tuple(named.get(name, ())) for name in tensors}
        for name, tensor in tensors.items():
            given = axes[name]
            if any(not 1 <= axis < tensor.ndim for axis in given) or sorted(set(given)) != list(given):
                raise ValueError(
                    f"grid_axes: expected ascending axes from 1 to {tensor.ndim - 1} for make_input's shape "
                    f"{tuple(tensor.shape)}, got {given}; axis 0 is the batch."
                )
        sizes = {tensor.shape[0] for tensor in tensors.values()}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ValueError(f"make_input: expected a batch of at least two samples, got batch sizes {sorted(sizes)}.")
        grids = {tuple(tensors[name].shape[axis] for axis in given) for name, given in axes.items() if given}
        if len(grids) > 1:
            raise ValueError(f"grid_axes: expected the same raw grid for all tensors of make_input, got {sorted(grids)}.")
        return cls(tensors=tensors, axes=axes)

    @property
    def value(self) -> Tensor | dict[str, Tensor]:
        """The tensor, or the dict of tensors, to pass to the adapter."""
        return self.tensors[_ONLY] if set(self.tensors) == {_ONLY} else self.tensors

    @property
    def batch(self) -> int:
        """B."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def grid(self) -> tuple[int, ...]:
        """The raw grid (n1, …, nd); () without a grid."""
        for name, axes in self.axes.items():
            if axes:
                return tuple(self.tensors[name].shape[axis] for axis in axes)
        return ()

    def rows(self, index: Sequence[int]) -> RawInput:
        """Select samples, in this order."""
        return replace(self, tensors={name: tensor[list(index)] for name, tensor in self.tensors.items()})

    def cut(self, grid: Sequence[int]) -> RawInput:
        """Crop every sample to the first elements along every axis of the grid."""
        tensors = {}
        for name, tensor in self.tensors.items():
            for axis, size in zip(self.axes[name], grid, strict=False):
                tensor = tensor.narrow(axis, 0, size)
            tensors[name] = tensor
        return replace(self, tensors=tensors)

    def padded(self, by: int) -> tuple[RawInput, Tensor]:
        """Append garbage to every axis of the grid; return the result and the mask `(B, *grid)` of the original elements."""
        tensors = {}
        for name, tensor in self.tensors.items():
            shape = [size + by if axis in self.axes[name] else size for axis, size in enumerate(tensor.shape)]
            longer = torch.full(shape, rubbish(tensor.dtype), dtype=tensor.dtype)
            longer[tuple(slice(size) for size in tensor.shape)] = tensor
            tensors[name] = longer
        return replace(self, tensors=tensors), box(self.batch, [size + by for size in self.grid], self.grid)

    def spoilt(self, mask: Tensor) -> RawInput:
        """Replace all content that a mask `(B,)` or `(B, *grid)` hides by garbage."""
        present = mask.flatten(1).any(dim=1) if mask.ndim > 1 else mask
        tensors = {}
        for name, tensor in self.tensors.items():
            valid = mask if mask.ndim > 1 and self.axes[name] else present
            kept = (0, *self.axes[name]) if valid.ndim > 1 else (0,)
            shape = [size if axis in kept else 1 for axis, size in enumerate(tensor.shape)]
            garbage = torch.tensor(rubbish(tensor.dtype), dtype=tensor.dtype)
            tensors[name] = torch.where(valid.reshape(shape), tensor, garbage)
        return replace(self, tensors=tensors)

    def replaced(self, name: str, tensor: Tensor) -> RawInput:
        """Replace the tensor of this name."""
        return replace(self, tensors={**self.tensors, name: tensor})


def rubbish(dtype: torch.dtype) -> float | int | bool:
    """Return a garbage value that must never be read: NaN, an invalid integer, or True."""
    if dtype.is_floating_point:
        return float("nan")
    if dtype == torch.bool:
        return True
    return -1 if dtype.is_signed else torch.iinfo(dtype).max


def box(batch: int, grid: Sequence[int], inside: Sequence[int]) -> Tensor:
    """Return a mask `(B, *grid)` that is True in the box of sizes `inside` at the origin."""
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    mask[(slice(None), *(slice(size) for size in inside))] = True
    return mask
