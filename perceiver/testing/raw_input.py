"""What an adapter takes, a tensor or a dict of tensors: samples taken out of it, cut, padded, and spoilt where masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GridAxes = Sequence[int] | Mapping[str, Sequence[int]]
"""The axes of a batch that are its raw grid, first grid axis first: `(2, 3)` of images `(B, C, H, W)`, `(1,)` of point sets
`(B, P, 3)`, `()` where a mask can only say which samples are present. Of a dict of tensors: by name, for those that have
any, as `{"values": (1,), "times": (1,)}`."""

_ONLY = ""  # the name of the tensor where there is just one


@dataclass(frozen=True)
class RawInput:
    """A batch of one modality as its adapter takes it.

    Args:
        tensors: each `(B, …)`.
        axes: which of their axes are the grid, for each tensor.
    """

    tensors: dict[str, Tensor]
    axes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, raw: Tensor | Mapping[str, Tensor], grid_axes: GridAxes) -> RawInput:
        """Of what a user's `make_input` returned.

        Raises:
            ValueError: fewer than two samples, or axes that are not there or of different sizes.
        """
        tensors = {_ONLY: raw} if isinstance(raw, Tensor) else dict(raw)
        if isinstance(grid_axes, Mapping) == isinstance(raw, Tensor) and grid_axes:
            raise ValueError(
                f"grid_axes: expected axes for a tensor, a dict of axes for a dict of tensors, got {grid_axes}."
            )
        named = grid_axes if isinstance(grid_axes, Mapping) else {_ONLY: grid_axes} if isinstance(raw, Tensor) else {}
        if set(named) - set(tensors):
            raise ValueError(
                f"grid_axes: expected some of {sorted(tensors)}, the tensors of make_input, got {sorted(named)}."
            )
        axes = {name: tuple(named.get(name, ())) for name in tensors}
        for name, tensor in tensors.items():
            own = axes[name]
            if any(not 1 <= axis < tensor.ndim for axis in own) or sorted(set(own)) != list(own):
                raise ValueError(
                    f"grid_axes: expected ascending axes from 1 to {tensor.ndim - 1} of make_input's "
                    f"{tuple(tensor.shape)}, got {own}; axis 0 is the batch."
                )
        sizes = {tensor.shape[0] for tensor in tensors.values()}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ValueError(f"make_input: expected one batch of two samples or more, got batch sizes {sorted(sizes)}.")
        grids = {tuple(tensors[name].shape[axis] for axis in own) for name, own in axes.items() if own}
        if len(grids) > 1:
            raise ValueError(f"grid_axes: expected one raw grid for all tensors of make_input, got {sorted(grids)}.")
        return cls(tensors=tensors, axes=axes)

    @property
    def value(self) -> Tensor | dict[str, Tensor]:
        """What the adapter takes."""
        return self.tensors[_ONLY] if set(self.tensors) == {_ONLY} else self.tensors

    @property
    def batch(self) -> int:
        """B."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def grid(self) -> tuple[int, ...]:
        """The raw grid (n1, …, nd); () if there is none."""
        for name, own in self.axes.items():
            if own:
                return tuple(self.tensors[name].shape[axis] for axis in own)
        return ()

    def rows(self, index: Sequence[int]) -> RawInput:
        """Some samples, in this order."""
        return replace(self, tensors={name: tensor[list(index)] for name, tensor in self.tensors.items()})

    def cut(self, grid: Sequence[int]) -> RawInput:
        """The first elements of every sample along every axis of the grid."""
        tensors = {}
        for name, tensor in self.tensors.items():
            for axis, size in zip(self.axes[name], grid, strict=False):
                tensor = tensor.narrow(axis, 0, size)
            tensors[name] = tensor
        return replace(self, tensors=tensors)

    def padded(self, by: int) -> tuple[RawInput, Tensor]:
        """Rubbish appended to every axis of the grid, and the mask `(B, *grid)` of what was there before."""
        tensors = {}
        for name, tensor in self.tensors.items():
            shape = [size + by if axis in self.axes[name] else size for axis, size in enumerate(tensor.shape)]
            longer = torch.full(shape, rubbish(tensor.dtype), dtype=tensor.dtype)
            longer[tuple(slice(size) for size in tensor.shape)] = tensor
            tensors[name] = longer
        return replace(self, tensors=tensors), box(self.batch, [size + by for size in self.grid], self.grid)

    def spoilt(self, mask: Tensor) -> RawInput:
        """Rubbish in place of all that a mask `(B,)` or `(B, *grid)` hides."""
        present = mask.flatten(1).any(dim=1) if mask.ndim > 1 else mask
        tensors = {}
        for name, tensor in self.tensors.items():
            own = mask if mask.ndim > 1 and self.axes[name] else present
            kept = (0, *self.axes[name]) if own.ndim > 1 else (0,)
            shape = [size if axis in kept else 1 for axis, size in enumerate(tensor.shape)]
            tensors[name] = torch.where(own.reshape(shape), tensor, torch.tensor(rubbish(tensor.dtype), dtype=tensor.dtype))
        return replace(self, tensors=tensors)

    def replaced(self, name: str, tensor: Tensor) -> RawInput:
        """With another tensor of this name."""
        return replace(self, tensors={**self.tensors, name: tensor})


def rubbish(dtype: torch.dtype) -> float | int | bool:
    """What nothing may read: NaN, a negative number, or True."""
    if dtype.is_floating_point:
        return float("nan")
    if dtype == torch.bool:
        return True
    return -1 if dtype.is_signed else torch.iinfo(dtype).max


def box(batch: int, grid: Sequence[int], inside: Sequence[int]) -> Tensor:
    """`(B, *grid)`, True in the box of the sizes `inside` at the origin."""
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    mask[(slice(None), *(slice(size) for size in inside))] = True
    return mask
