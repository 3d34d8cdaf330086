"""The inner function of factored cross-attention in plain PyTorch, available on every device.

It works on chunks of samples and rows whose scores fit the cache, forward and backward, and never holds all scores. It is a
custom operator, so that `torch.compile` and `torch.export` of a whole model treat it as opaque.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from perceiver.attention.kernels.contract import READ, READ_BACKWARD, Kernel, batch_size, connect, lse_dtype
from perceiver.attention.kernels.standard import standardise

CHUNK = 2**18
"""Scores per chunk: 1 MB in float32, so that a few temporaries of this size fit a core's share of the cache."""


@torch.library.custom_op("perceiver::read_tokens_eager", mutates_args=(), schema=READ)
def read_tokens(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the softmax over the tokens of a block and the weighted sums of its parts.

    Args:
        queries: `(b, R, C)`, absorbed queries a; b is B or 1.
        parts: each `(b, outer or 1, inner or 1, c)`; their channels sum to C.
        rstd: `(b, outer, inner)`.
        mask: `(b, outer, inner)`, True where valid, or None.

    Returns:
        `(B, R, C)`: sum_i p_i * rstd_i * t_i with p the softmax over i of rstd_i * (a . t_i), zeros for rows without a valid
        token; `(B, R)`: the logarithm of the softmax's denominator, minus infinity for rows without a valid token.
    """
    (batch,) = batch_size(queries, *parts, rstd, mask)
    rows = queries.shape[1]
    sums = queries.new_empty(batch, rows, queries.shape[2])
    lse = queries.new_empty(batch, rows, dtype=lse_dtype(queries.dtype))
    split = queries.split([part.shape[-1] for part in parts], dim=-1)
    for b, r in chunks(batch, rows, rstd.shape[1] * rstd.shape[2]):
        scores = inner_products([rows_of(a, b, r) for a in split], [samples_of(part, b) for part in parts], rstd.shape[1:])
        own_rstd = samples_of(rstd, b)[:, None]
        scores = scores.mul_(own_rstd) if scores.shape[0] >= own_rstd.shape[0] else scores * own_rstd
        if mask is not None:
            scores = torch.where(samples_of(mask, b)[:, None], scores, scores.new_full((), -torch.inf))
        flat = scores.flatten(2)
        top = flat.amax(dim=-1, keepdim=True)
        if mask is not None:
            top.clamp_(min=torch.finfo(top.dtype).min)
        flat.sub_(top).exp_()
        total = flat.sum(dim=-1, keepdim=True)
        lse[b, r] = (top + total.log())[..., 0]
        if mask is not None:
            total.masked_fill_(total == 0, 1.0)
        scores.mul_(own_rstd)
        marginals = [marginal(scores, samples_of(part, b)) for part in parts]
        sums[b, r] = torch.cat(marginals, dim=-1) / total
    return sums, lse


@torch.library.custom_op("perceiver::read_tokens_eager_backward", mutates_args=(), schema=READ_BACKWARD)
def read_tokens_backward(
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
    """Return the gradients of `read_tokens` for those of (queries, *parts, rstd) that need them, in this order.

    With p = exp(s - lse), w = p * rstd, dw_i = sum_p grad_p . x_p,i and delta = sum(sums * grad_sums) - grad_lse:
    ds = w * dw - p * delta, dt = ds * rstd. The gradient of the queries is the marginals of dt, that of the parts
    dt a + w grad, and that of rstd the sum over rows of ds t + p dw.
    """
    batch, rows, _ = sums.shape
    grid = rstd.shape[1:]
    widths = [part.shape[-1] for part in parts]
    need_queries, need_rstd, need_parts = needs[0], needs[-1], needs[1:-1]
    queries_grad = torch.zeros_like(queries)
    parts_grad = [torch.zeros_like(part) if need else None for part, need in zip(parts, need_parts, strict=True)]
    rstd_grad = rstd.new_zeros(rstd.shape) if need_rstd else None
    delta = (sums * grad_sums).sum(dim=-1) - grad_lse
    # In rows without a valid token all scores are minus infinity, and p must be zero.
    lse = torch.where(lse.isneginf(), lse.new_zeros(()), lse)
    split, split_grads = queries.split(widths, dim=-1), grad_sums.split(widths, dim=-1)
    split_queries_grad = queries_grad.split(widths, dim=-1)
    for b, r in chunks(batch, rows, grid[0] * grid[1]):
        own_parts = [samples_of(part, b) for part in parts]
        own_queries = [rows_of(a, b, r) for a in split]
        own_grads = [rows_of(g, b, r) for g in split_grads]
        own_rstd = samples_of(rstd, b)[:, None]
        inner = inner_products(own_queries, own_parts, grid)
        scores = inner * own_rstd
        if mask is not None:
            scores = torch.where(samples_of(mask, b)[:, None], scores, scores.new_full((), -torch.inf))
        p = scores.sub(lse[b, r][..., None, None]).exp_()
        dw = inner_products(own_grads, own_parts, grid)
        pdw = dw.mul_(p) if dw.shape == p.shape else dw * p
        w = p * own_rstd
        ds = pdw * own_rstd - p * delta[b, r][..., None, None]
        if rstd_grad is not None:
            _accumulate(rstd_grad, b, (ds * inner + pdw).sum(dim=1))
        dt = ds.mul_(own_rstd)
        for index, part in enumerate(own_parts):
            if need_queries:
                _accumulate_rows(split_queries_grad[index], b, r, marginal(dt, part))
            grad = parts_grad[index]
            if grad is not None:
                _accumulate(grad, b, _spread(dt, own_queries[index], part) + _spread(w, own_grads[index], part))
    return [
        grad for grad, need in zip([queries_grad, *parts_grad, rstd_grad], needs, strict=True) if need and grad is not None
    ]


connect(read_tokens, read_tokens_backward)

KERNEL = Kernel(read=read_tokens, standardise=standardise)


def chunks(batch: int, rows: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of samples and rows with about CHUNK scores each: whole samples if small, else rows of a sample."""
    samples = max(1, CHUNK // max(rows * tokens, 1))
    count = rows if samples > 1 else max(1, CHUNK // max(tokens, 1))
    for b in range(0, batch, samples):
        for r in range(0, rows, count):
            yield slice(b, min(b + samples, batch)), slice(r, min(r + count, rows))


def samples_of(x: Tensor, b: slice) -> Tensor:
    return x if x.shape[0] == 1 else x[b]


def rows_of(x: Tensor, b: slice, r: slice) -> Tensor:
    return samples_of(x, b)[:, r]


def inner_products(rows: Sequence[Tensor], parts: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """Return sum_p rows_p . part_p as a new tensor `(b, r, outer, inner)`; each product is taken at its part's own shape."""
    terms = []
    for row, part in zip(rows, parts, strict=True):
        product = row @ part.flatten(1, 2).transpose(1, 2)
        terms.append(product.reshape(*product.shape[:2], *part.shape[1:3]))
    terms.sort(key=lambda term: term.numel())
    total = terms[0]
    for term in terms[1:]:
        covers = all(size != 1 or other == 1 for size, other in zip(term.shape, total.shape, strict=True))
        total = term.add_(total) if covers else total + term
    full = (*total.shape[:2], *grid)
    return total if total.shape == full else total.expand(full).clone()


def marginal(weights: Tensor, part: Tensor) -> Tensor:
    """Sum weights `(b, r, outer, inner)` times part over the tokens: `(b, r, c)`. Constant axes are summed first."""
    axes = [axis for axis in (1, 2) if part.shape[axis] == 1 and weights.shape[axis + 1] != 1]
    if axes:
        weights = weights.sum(dim=[axis + 1 for axis in axes], keepdim=True)
    return weights.flatten(2) @ part.flatten(1, 2)


def _spread(weights: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    """Sum weights `(b, r, outer, inner)` times rows `(b, r, c)` over the rows, at the part's own grid: `(b, o, i, c)`."""
    axes = [axis for axis in (1, 2) if part.shape[axis] == 1 and weights.shape[axis + 1] != 1]
    if axes:
        weights = weights.sum(dim=[axis + 1 for axis in axes], keepdim=True)
    spread = weights.flatten(2).transpose(1, 2) @ rows
    return spread.reshape(spread.shape[0], *weights.shape[2:], rows.shape[-1])


def _accumulate(total: Tensor, b: slice, grad: Tensor) -> None:
    if total.shape[0] == 1:
        total += grad.sum(dim=0, keepdim=True)
    else:
        total[b] += grad


def _accumulate_rows(total: Tensor, b: slice, r: slice, grad: Tensor) -> None:
    _accumulate(total[:, r], b, grad)
