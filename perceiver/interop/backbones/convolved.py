"""Lengths of sequences behind convolutions without padding, as in networks on waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from perceiver.tokens.masks import extents

_Length = TypeVar("_Length", int, Tensor)


def convolved_length(length: _Length, *, kernels: Sequence[int], strides: Sequence[int]) -> _Length:
    """Return the number of outputs of convolutions in turn; 0 or less if the input is too short."""
    for kernel, stride in zip(kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
    return length


def covered(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the number of inputs that the first output depends on: the shortest possible input."""
    length = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        length = (length - 1) * stride + kernel
    return length


def frames_mask(
    mask: Bool[Tensor, "batch samples"], *, kernels: Sequence[int], strides: Sequence[int]
) -> Bool[Tensor, "batch frames"]:
    """Return which outputs depend on valid samples only; at least the first of each sequence with valid samples."""
    [samples] = extents(mask)
    frames = max(1, convolved_length(mask.shape[1], kernels=kernels, strides=strides))
    valid = convolved_length(samples, kernels=kernels, strides=strides).clamp(min=1)
    return (torch.arange(frames, device=mask.device) < valid[:, None]) & (samples > 0)[:, None]
