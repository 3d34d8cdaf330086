"""Masks of raw inputs: presence of whole samples or of single elements, and their reduction to patches.

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
    """Expand a raw mask to elements: `(B,)` presence of samples or `(B, *G)` validity of elements -> `(B, *G)`.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if it has neither of these shapes.
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
    """Return presence `(B,)` of a modality in each sample: True if any element is valid; None if all samples have it.

    Args:
        x: `(B, …)`, or several tensors by name. A boolean tensor called `present` (cells of a table, single values of a
            series) is combined with the mask.
        mask: `(B,)` presence of samples or `(B, *G)` validity of elements.
    """
    valid = mask
    present = None if isinstance(x, Tensor) else x.get("present")
    if present is not None:
        valid = present if mask is None else present & mask.reshape(*mask.shape, *[1] * (present.ndim - mask.ndim))
    return valid if valid is None or valid.ndim == 1 else valid.flatten(1).any(dim=1)


def patch_mask(mask: Bool[Tensor, "batch *grid"], patch: Sequence[int]) -> Bool[Tensor, "batch *patches"]:
    """Reduce a mask to patches, valid if any element is valid. Grids that do not divide by the patch are padded at the end.

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
    """Return the valid size of each sample per axis: one past its last valid element, or 0 without valid elements."""
    sizes = []
    for axis in range(1, mask.ndim):
        others = tuple(other for other in range(1, mask.ndim) if other != axis)
        line = mask.any(dim=others) if others else mask
        steps = torch.arange(1, mask.shape[axis] + 1, device=mask.device)
        sizes.append((line * steps).amax(dim=1))
    return tuple(sizes)


def zero_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Replace `x` by zeros where `mask` (broadcastable to x) is False; NaN and infinity vanish too."""
    return x if mask is None else torch.where(mask, x, x.new_zeros(()))
