"""Masks of raw inputs: presence of whole samples or of single elements, and what becomes of them in patches.

A mask is boolean and True means valid, everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor


def grid_mask(
    mask: Bool[Tensor, "batch *any"] | None, *, batch: int, grid: Sequence[int], name: str = "mask"
) -> Bool[Tensor, "batch *grid"] | None:
    """Bring a raw mask to one form: `(B,)` presence of samples or `(B, *G)` validity of elements -> `(B, *G)`.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if its shape is neither.
    """
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected dtype bool (True = valid), got {mask.dtype}; convert it, e.g. `mask != 0`.")
    full = (batch, *grid)
    if tuple(mask.shape) == full:
        return mask
    if tuple(mask.shape) == (batch,):
        return mask.reshape(batch, *(1 for _ in grid)).expand(full)
    raise ValueError(f"{name}: expected {(batch,)} (presence per sample) or {full} (per element), got {tuple(mask.shape)}.")


def presence(x: Tensor | Mapping[str, Tensor], mask: Bool[Tensor, "batch *any"] | None) -> Bool[Tensor, "batch"] | None:
    """Which samples of a batch have anything of a modality, `(B,)`; None where nothing says that one has not.

    Args:
        x: `(B, …)`, or several tensors by name. A boolean one called `present` (cells of a table, single values of a series)
            counts like a mask, where the mask is True.
        mask: `(B,)` presence of samples or `(B, *G)` validity of elements.
    """
    there = mask
    own = None if isinstance(x, Tensor) else x.get("present")
    if own is not None:
        there = own if mask is None else own & mask.reshape(*mask.shape, *[1] * (own.ndim - mask.ndim))
    return there if there is None or there.ndim == 1 else there.flatten(1).any(dim=1)


def patch_mask(mask: Bool[Tensor, "batch *grid"], patch: Sequence[int]) -> Bool[Tensor, "batch *patches"]:
    """A patch is valid where any of its elements is; grids that are no multiple of the patch are padded at the end.

    Args:
        mask: `(B, n1, …, nd)`.
        patch: d patch sizes.

    Returns:
        `(B, ceil(n1 / p1), …, ceil(nd / pd))`.
    """
    padding: list[int] = []
    for size, length in zip(reversed(mask.shape[1:]), reversed(list(patch)), strict=True):
        padding += [0, -size % length]
    padded = F.pad(mask, padding)
    split: list[int] = [padded.shape[0]]
    for size, length in zip(padded.shape[1:], patch, strict=True):
        split += [size // length, length]
    return padded.reshape(split).any(dim=tuple(range(2, len(split), 2)))


def extents(mask: Bool[Tensor, "batch *grid"]) -> tuple[Int[Tensor, "batch"], ...]:
    """The valid size of each sample per axis: the index of its last valid element there, plus one; 0 if it has none."""
    sizes = []
    for axis in range(1, mask.ndim):
        others = tuple(other for other in range(1, mask.ndim) if other != axis)
        line = mask.any(dim=others) if others else mask
        steps = torch.arange(1, mask.shape[axis] + 1, device=mask.device)
        sizes.append((line * steps).amax(dim=1))
    return tuple(sizes)


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with zeros where `mask` (broadcastable to x) is False, by replacement: NaN and infinity vanish too."""
    return x if mask is None else torch.where(mask, x, x.new_zeros(()))
