"""Reciprocal standard deviations of tokens whose parts broadcast, in plain PyTorch, and removal of a common offset.

LayerNorm of a token needs the mean and the variance over its channels. Both follow from the moments of its parts, each
taken at the part's own shape, so that tokens are never expanded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

NARROW = 8
"""Largest number of channels for which moments are computed channel by channel."""

MOST_SAMPLED = 2**13
"""Approximate number of elements of a part from which its offset is estimated."""

FAR = 8.0
"""An offset is removed if it is this many standard deviations from zero."""


def standardise(
    parts: Sequence[Tensor], mask: Tensor | None, steady: int, eps: float, grid: tuple[int, int]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Remove an offset that all channels share, and compute 1 / sqrt(variance + eps) over each token's channels.

    LayerNorm ignores such an offset, but it costs precision in float32. A single part is centred token by token. Otherwise
    the mean of one part (or of a subset of its tokens) is subtracted from all parts if it is far from zero. The mean is per
    sample if that part is; a shared part loses its own offset in each sample then. Otherwise it is common to the batch, and
    shared parts stay shared.

    Masked content is ignored. What is removed from a sample depends on its neighbours in the batch in one case only: the
    mean of a part that they share is taken over what any sample sees. Their masks may then change the sample's result by
    rounding errors, but only if that part is far from zero, which position features and normalised inputs are not.

    Args:
        parts: each `(b, outer or 1, inner or 1, c)`, masked content zero; b is B or 1.
        mask: `(b, outer, inner)` or None.
        steady: index of the part from which the offset is estimated.
        eps: added to the variance.
        grid: (outer, inner).

    Returns:
        The parts without the offset, and `(b, outer, inner)`.
    """
    if len(parts) == 1:
        shifted: tuple[Tensor, ...] = (parts[0] - parts[0].mean(dim=-1, keepdim=True),)
    else:
        with torch.no_grad():
            offset = _offset(parts[steady], mask)
        shifted = tuple(part - offset for part in parts)
    return shifted, _reciprocal_std(shifted, eps, grid)


def _offset(part: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of a part, `(b, 1, 1, 1)`, or zero if it is not far from zero.

    Far means compared with the deviation of the values, with a deviation of 1 counted besides: a few values are close to
    each other by chance, and a single one has no deviation. Values of about unit size are never far, then.
    """
    # torch.export cannot solve for a step that depends on a dynamic size, so all elements are used.
    size: int | torch.SymInt = prod(part.shape[1:])
    step = 1 if isinstance(size, torch.SymInt) else -(-size // MOST_SAMPLED)
    if mask is not None and part.shape[0] == 1:
        mask = mask.any(dim=0, keepdim=True)
    if mask is not None and mask.shape[1] == part.shape[1]:
        mask = mask[:, ::step]
    mean, deviation = _valid_mean_and_deviation(part[:, ::step], mask)
    return torch.where(mean.abs() > FAR * deviation, mean, 0.0)


def _valid_mean_and_deviation(part: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and deviation `(b, 1, …, 1)` of a part over channels and the positions that valid elements see.

    A deviation of 1 is counted besides those of the values.
    """
    axes = tuple(range(1, part.ndim))
    if mask is None:
        variance, mean = torch.var_mean(part, dim=axes, keepdim=True, correction=0)
        return mean, (variance + 1.0 / prod(part.shape[1:])).sqrt()
    seen = mask[..., None]
    constant = [axis for axis in range(mask.ndim) if part.shape[axis] == 1]
    if constant:
        seen = seen.any(dim=constant, keepdim=True)
    count = (seen.expand(-1, *part.shape[1:-1], -1).sum(dim=axes, keepdim=True) * part.shape[-1]).clamp(min=1)
    mean = torch.where(seen, part, 0.0).sum(dim=axes, keepdim=True) / count
    squares = torch.where(seen, part - mean, 0.0).square().sum(dim=axes, keepdim=True)
    return mean, ((squares + 1.0) / count).sqrt()


def _reciprocal_std(parts: Sequence[Tensor], eps: float, grid: tuple[int, int]) -> Tensor:
    """Compute 1 / sqrt(variance + eps) over each token's channels from per-part moments (parallel-variance formula)."""
    channels = sum(part.shape[-1] for part in parts)
    means, withins = zip(*(_moments(part) for part in parts), strict=True)
    zero = means[0].new_zeros(())
    total = sum((mean * (part.shape[-1] / channels) for mean, part in zip(means, parts, strict=True)), start=zero)
    moment = zero
    for part, mean, within in zip(parts, means, withins, strict=True):
        moment = moment + within + (mean - total).square() * part.shape[-1]
    rstd = torch.rsqrt(moment / channels + eps)
    return rstd.expand(-1, *grid)


def _moments(part: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the channels, and sum of squared deviations from it."""
    if part.shape[-1] > NARROW:
        mean = part.mean(dim=-1)
        return mean, (part - mean[..., None]).square().sum(dim=-1)
    # For a few channels, torch's sum over the last axis is five times slower than adding channel by channel.
    channels = part.unbind(-1)
    mean = reduce(torch.add, channels) / len(channels)
    return mean, reduce(torch.add, ((channel - mean).square() for channel in channels))
