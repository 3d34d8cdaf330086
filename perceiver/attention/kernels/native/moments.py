"""`standardise` in native code: moments of tokens at their parts' own shapes. Falls back to plain PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.attention.kernels import standard
from perceiver.attention.kernels.contract import batch_size, has_tangent
from perceiver.attention.kernels.native.call import compact, kind_of, pointer, stride
from perceiver.attention.kernels.native.loader import availability
from perceiver.attention.kernels.native.task import MomentsTask, Source


def standardise(
    parts: Sequence[Tensor], mask: Tensor | None, steady: int, eps: float, grid: tuple[int, int]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Compute the function of `standard.standardise`; see there."""
    first = parts[0]
    available = torch.compiler.is_compiling() or availability().library is not None  # traced code was chosen for it
    if not available or first.device.type != "cpu" or first.dtype != torch.float32 or has_tangent(parts):
        return standard.standardise(parts, mask, steady, eps, grid)
    offset, mean, rstd = moments(list(parts), mask, steady if len(parts) > 1 else -1, eps, list(grid))
    if len(parts) == 1:
        return (parts[0] - mean[..., None],), rstd
    # Traced code cannot depend on values, and most tokens have no offset.
    if torch.compiler.is_compiling() or bool(offset.any()):
        return tuple(part - offset[:, None, None, None] for part in parts), rstd
    return tuple(parts), rstd


@torch.library.custom_op(
    "perceiver::token_moments_native",
    mutates_args=(),
    schema="(Tensor[] parts, Tensor? mask, int steady, float eps, SymInt[] grid) -> (Tensor, Tensor, Tensor)",
)
def moments(
    parts: list[Tensor], mask: Tensor | None, steady: int, eps: float, grid: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a common offset, and each token's mean and reciprocal standard deviation. Only the latter is differentiable.

    Args:
        parts: each `(b, outer or 1, inner or 1, c)`, float32 on the CPU; b is B or 1.
        mask: `(b, outer, inner)` or None.
        steady: index of the part from which the offset is estimated; -1: no offset.
        eps: added to the variance.
        grid: (outer, inner).

    Returns:
        `(b,)`: the offset; `(b, outer, inner)`: the mean of each token without the offset; `(b, outer, inner)`: rstd.
    """
    library = availability().library
    if library is None:
        raise RuntimeError("The native attention kernel is not available in this process.")
    offset, mean, rstd = _results(parts, mask, steady, eps, grid)
    if rstd.numel() == 0:
        return offset.zero_(), mean, rstd
    kept = [compact(part) for part in parts]
    compact_mask = compact(mask)
    sources = (Source * len(parts))()
    for source, part, own in zip(sources, parts, kept, strict=True):
        source.data, source.stride = pointer(own), stride(own)
        source.kind, source.channels = kind_of(part.shape, *grid), part.shape[-1]
    task = MomentsTask(
        batch=rstd.shape[0],
        outer=grid[0],
        inner=grid[1],
        num_parts=len(parts),
        threads=torch.get_num_threads(),
        steady=steady,
        offsets=offset.shape[0],
        masks=1 if compact_mask is None else compact_mask.shape[0],
        parts=ctypes.cast(sources, ctypes.POINTER(Source)),
        mask=pointer(compact_mask),
        offset=offset.data_ptr(),
        mean=mean.data_ptr(),
        rstd=rstd.data_ptr(),
        eps=eps,
    )
    if library.perceiver_moments(ctypes.byref(task)) != 0:
        raise MemoryError("The native attention kernel could not allocate its workspace.")
    return offset, mean, rstd


@moments.register_fake
def _results(
    parts: list[Tensor], mask: Tensor | None, steady: int, eps: float, grid: Sequence[int | torch.SymInt]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tensors for the results of `moments`."""
    (batch,) = batch_size(*parts)
    mean = parts[0].new_empty(batch, *grid)
    return parts[0].new_empty(1 if steady < 0 else parts[steady].shape[0]), mean, torch.empty_like(mean)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    parts = inputs[0]
    offset, mean, rstd = output
    ctx.mark_non_differentiable(offset, mean)
    ctx.needs = [part.requires_grad for part in parts]
    ctx.save_for_backward(offset, mean, rstd, *parts)


def _gradients(ctx: Any, _: Tensor, __: Tensor, grad: Tensor) -> tuple[Any, ...]:
    """With y a part without the offset: d rstd / d y = -rstd^3 (y - mean) / C, summed over the axes where y is constant."""
    offset, mean, rstd, *parts = ctx.saved_tensors
    slope = grad * rstd.pow(3) * (-1.0 / sum(part.shape[-1] for part in parts))
    by_mean = slope * mean
    if len(parts) == 1:
        centred = parts[0] - mean[..., None]
        centred = centred - centred.mean(dim=-1, keepdim=True)  # a mean far from zero is rounded
        return [slope[..., None] * centred], None, None, None, None
    grads = [_gradient(part, offset, slope, by_mean) if need else None for part, need in zip(parts, ctx.needs, strict=True)]
    return grads, None, None, None, None


def _gradient(part: Tensor, offset: Tensor, slope: Tensor, by_mean: Tensor) -> Tensor:
    y = part - offset[:, None, None, None]
    over = [axis for axis in range(3) if y.shape[axis] == 1 and slope.shape[axis] != 1]
    if over:
        slope, by_mean = slope.sum(dim=over, keepdim=True), by_mean.sum(dim=over, keepdim=True)
    grad = y * slope[..., None] - by_mean[..., None]
    return grad.sum(dim=0, keepdim=True) if grad.shape[0] > part.shape[0] else grad


moments.register_autograd(_gradients, setup_context=_keep)
