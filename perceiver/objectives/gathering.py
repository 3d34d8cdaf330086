"""Tensors of all processes, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them."""
    return distributed.get_rank() if processes() > 1 else 0


def gathered(x: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along the first axis, in order of rank; all have the same shape.

    The gradient of a process's own tensor is the sum of the gradients in all processes, so that losses summed over
    processes have the gradients of one process with all samples.
    """
    if processes() == 1:
        return x
    whole: Tensor = _Gather.apply(x)
    return whole


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape[0]
        pieces = [torch.empty_like(x) for _ in range(processes())]
        distributed.all_gather(pieces, x.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        distributed.all_reduce(grad)
        return grad[rank() * ctx.size : (rank() + 1) * ctx.size]
