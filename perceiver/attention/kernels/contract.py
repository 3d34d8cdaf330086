"""The contract of the inner function's kernels: schemas, shapes for tracing, and how forward and backward are connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

Shape = torch.Size

Read = Callable[[Tensor, list[Tensor], Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""The function that each implementation provides: (absorbed queries, collapsed parts, rstd, mask) -> (sums, log-sum-exp)."""

Standardise = Callable[[Sequence[Tensor], Tensor | None, int, float, tuple[int, int]], tuple[tuple[Tensor, ...], Tensor]]
"""The function before it, see `standard.standardise`: (parts, mask, steady, eps, grid) -> (parts, rstd)."""


@dataclass(frozen=True)
class Kernel:
    """An implementation of the inner function, and of the moments that it needs.

    Args:
        read: the inner function.
        standardise: computes the reciprocal standard deviations of tokens.
    """

    read: Read
    standardise: Standardise


READ = "(Tensor queries, Tensor[] parts, Tensor rstd, Tensor? mask) -> (Tensor, Tensor)"
READ_BACKWARD = (
    "(Tensor grad_sums, Tensor grad_lse, Tensor queries, Tensor[] parts, Tensor rstd, Tensor? mask, Tensor sums, "
    "Tensor lse, bool[] needs) -> Tensor[]"
)
"""Explicit operator schemas, because torch cannot infer them from annotations that are strings."""


def batch_size(*inputs: Tensor | None) -> torch.Size:
    """Return `(B,)`, the shape to which the first dimensions of all inputs, each B or 1, broadcast."""
    return torch.Size((next((size for x in inputs if x is not None and (size := x.shape[0]) != 1), 1),))


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of log-sum-exps: at least float32, because the backward pass exponentiates them."""
    return torch.promote_types(dtype, torch.float32)


def has_tangent(inputs: Sequence[Tensor]) -> bool:
    """Whether an input is being differentiated in forward mode."""
    forward_mode = not torch.compiler.is_compiling() and forward_ad._current_level >= 0
    return forward_mode and any(forward_ad.unpack_dual(x).tangent is not None for x in inputs)


def call(read: Read, queries: Tensor, parts: Sequence[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Call a kernel, but refuse forward-mode differentiation, in which tangents would be silently dropped.

    Raises:
        NotImplementedError: if an input has a tangent, as under `torch.func.jvp`, `jacfwd` and `hessian`.
    """
    if has_tangent((queries, *parts, rstd)):
        raise NotImplementedError(
            "Factored cross-attention has no forward-mode derivative (torch.func.jvp, jacfwd, hessian). Differentiate in "
            "reverse mode (torch.func.vjp, jacrev), or build the model with attention=dense and compute it under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        )
    return read(queries, list(parts), rstd, mask)


def _products(queries: Shape, parts: list[Shape], rstd: Shape, mask: Shape | None) -> int:
    """Number of floating-point operations of multiplying all rows by all parts, each part at its own shape."""
    batch = max(shape[0] for shape in (queries, rstd, *parts, *([] if mask is None else [mask])))
    return int(2 * batch * queries[1] * sum(prod(shape[1:]) for shape in parts))


def connect(read: CustomOpDef, backward: CustomOpDef) -> None:
    """Make an implementation differentiable and traceable.

    Args:
        read: (queries, parts, rstd, mask) -> (sums, lse), like `eager.read_tokens`.
        backward: like `eager.read_tokens_backward`; returns gradients for those of (queries, *parts, rstd) that need them.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        queries, parts, rstd, mask = inputs
        ctx.needs = [queries.requires_grad, *(part.requires_grad for part in parts), rstd.requires_grad]
        ctx.save_for_backward(queries, rstd, mask, *output, *parts)

    def gradients(ctx: Any, grad_sums: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
        queries, rstd, mask, sums, lse, *parts = ctx.saved_tensors
        # The forward pass ran without autocast; scores recomputed in another precision would not fit its log-sum-exps.
        with torch.autocast(queries.device.type, enabled=False):
            taken = iter(backward(grad_sums, grad_lse, queries, list(parts), rstd, mask, sums, lse, ctx.needs))
        queries_grad, *parts_grad, rstd_grad = [next(taken) if need else None for need in ctx.needs]
        return queries_grad, parts_grad, rstd_grad, None

    def fake_read(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        (batch,) = batch_size(queries, *parts, rstd, mask)
        lse = queries.new_empty(batch, queries.shape[1], dtype=lse_dtype(queries.dtype))
        return queries.new_empty(batch, *queries.shape[1:]), lse

    def fake_backward(
        grad_sums: Tensor,
        grad_lse: Tensor,
        queries: Tensor,
        parts: list[Tensor],
        rstd: Tensor,
        mask: Tensor | None,
        sums: Tensor,
        lse: Tensor,
        needs: list[bool],
    ) -> list[Tensor]:
        tensors = [queries, *parts, rstd]
        return [x.new_empty(x.shape) for x, need in zip(tensors, needs, strict=True) if need]

    @register_flop_formula(read._opoverload.overloadpacket)
    def _(
        queries: Shape, parts: list[Shape], rstd: Shape, mask: Shape | None, *, out_shape: object = None, **_: object
    ) -> int:
        return 2 * _products(queries, parts, rstd, mask)

    @register_flop_formula(backward._opoverload.overloadpacket)
    def _(
        grad_sums: Shape,
        grad_lse: Shape,
        queries: Shape,
        parts: list[Shape],
        rstd: Shape,
        mask: Shape | None,
        *_: object,
        **__: object,
    ) -> int:
        # Recomputed scores, their gradient, and the gradients of queries and parts.
        return 4 * _products(queries, parts, rstd, mask)

    read.register_fake(fake_read)
    backward.register_fake(fake_backward)
    read.register_autograd(gradients, setup_context=setup_context)
