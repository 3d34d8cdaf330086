"""Tensors as arguments of native code."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from perceiver.attention.kernels.native.task import Kind


def kind_of(shape: torch.Size, outer: int, inner: int) -> Kind:
    """Return the grid axes along which a part of this shape varies."""
    if shape[1] == shape[2] == 1:
        return Kind.CONSTANT
    if shape[1] == outer and shape[2] == inner and min(outer, inner) > 1:
        return Kind.FULL
    return Kind.INNER if shape[2] > 1 else Kind.OUTER


@overload
def compact(x: Tensor) -> Tensor: ...
@overload
def compact(x: None) -> None: ...
@overload
def compact(x: Tensor | None) -> Tensor | None: ...
def compact(x: Tensor | None) -> Tensor | None:
    """Make x contiguous, with batch size 1 if all samples share the same memory."""
    if x is None:
        return None
    return (x[:1] if x.shape[0] > 1 and x.stride(0) == 0 else x).contiguous()


def pointer(x: Tensor | None) -> int | None:
    """Return the address of x; None for None."""
    return None if x is None else x.data_ptr()


def stride(x: Tensor | None) -> int:
    """Return the stride between samples of a contiguous tensor in elements; 0 if all samples share the same data."""
    return 0 if x is None or x.shape[0] == 1 else x.numel() // x.shape[0]
