"""The factored form of cross-attention: the dense formula, computed without expanding the tokens.

Let t_i be a token and g * (t_i - mu_i) * rstd_i + b its LayerNorm. For each head and query, let a = center(g * W_k^T q) /
sqrt(d), where center() subtracts the mean over the channels. The score of token i is `rstd_i * (a . t_i)` plus a constant
that the softmax drops: a sums to zero, so mu_i vanishes. Split by parts, `a . t_i` is a broadcast sum of small products,
each at its part's own shape. Likewise for values: `sum_i p_i * rstd_i * t_i` needs only the marginal of p * rstd over the
axes along which a part is constant. Centred, scaled by g and shifted by b, the result goes through W_v once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.attention.forms.absorbed import absorb, project
from perceiver.attention.kernels.contract import Kernel, Standardise, call
from perceiver.attention.kernels.dispatch import implementation
from perceiver.attention.kernels.eager_dropout import read_tokens_dropped
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.tokens import Tokens


def factored_attention(
    query: Float[Tensor, "batch_or_1 heads queries qk"],
    blocks: Sequence[Tokens],
    projection: TokenProjection,
    *,
    dropout: float = 0.0,
    kernel: Kernel | None = None,
) -> Float[Tensor, "batch heads queries v"]:
    """Compute the function of `dense_attention`; see there for the other arguments.

    Under autocast everything here stays float32, which is as fast, and more accurate than the dense form in bfloat16.

    Args:
        kernel: the implementation of the inner function; None takes the fastest available, see `kernels/dispatch.py`. With
            dropout it is always `kernels/eager_dropout.py`.
    """
    with torch.autocast(query.device.type, enabled=False):
        num_heads = query.shape[1]
        kernel = kernel or _fastest(query, blocks)
        rows, planes = _prepared(query, blocks, projection, kernel)
        masked = any(block.mask is not None for block in blocks)
        kept = None
        if dropout:
            dropped = [
                read_tokens_dropped(rows, list(plane.parts), plane.rstd, plane.mask, dropout=dropout) for plane in planes
            ]
            # The sum of the remaining weights is merged like an additional channel.
            results = [(torch.cat([sums, left[..., None]], dim=-1), lse) for sums, lse, left in dropped]
            sums, found = merge(results, masked=masked)
            sums, kept = sums[..., :-1], sums[..., -1].unflatten(1, (num_heads, -1))
        else:
            results = [call(kernel.read, rows, plane.parts, plane.rstd, plane.mask) for plane in planes]
            sums, found = merge(results, masked=masked)
        out = project(sums.unflatten(1, (num_heads, -1)), projection, kept=kept)
        if found is not None:
            out = torch.where(found.reshape(*out.shape[:3], 1), out, out.new_zeros(()))
        return out


def factored_shares(
    query: Float[Tensor, "batch_or_1 heads queries qk"], blocks: Sequence[Tokens], projection: TokenProjection
) -> tuple[Float[Tensor, "batch heads queries"], ...]:
    """Return each block's share of each query's attention, `(B, h, N)` per block: the sums over a block of `dense_weights`.

    Over all blocks they sum to 1, or to 0 for samples without a valid token. They follow from the blocks' softmax
    denominators, so the weights are never held in memory.
    """
    with torch.autocast(query.device.type, enabled=False):
        kernel = _fastest(query, blocks)
        rows, planes = _prepared(query, blocks, projection, kernel)
        lses = [call(kernel.read, rows, plane.parts, plane.rstd, plane.mask)[1] for plane in planes]
        lse = torch.stack(torch.broadcast_tensors(*lses))
        nothing = lse.isneginf().all(dim=0)
        shares = torch.where(nothing, 0.0, torch.where(nothing, 0.0, lse).softmax(dim=0))
        return tuple(shares.unflatten(2, (query.shape[1], -1)).unbind(dim=0))


def _fastest(query: Tensor, blocks: Sequence[Tokens]) -> Kernel:
    return implementation(query.device, common_dtype(query.dtype, blocks)).kernel


def _prepared(
    query: Tensor, blocks: Sequence[Tokens], projection: TokenProjection, kernel: Kernel
) -> tuple[Tensor, list[Plane]]:
    """Return absorbed queries `(B or 1, h * N, C)` and collapsed blocks, in a common precision of at least float32."""
    dtype = common_dtype(query.dtype, blocks)
    rows = absorb(query.to(dtype), projection).flatten(1, 2)
    eps, standardise = projection.norm.eps, kernel.standardise
    return rows, [collapse(block, dtype=dtype, eps=eps, standardise=standardise) for block in blocks]


def common_dtype(query: torch.dtype, blocks: Sequence[Tokens]) -> torch.dtype:
    """Return the type that the factored form computes in: that of queries and parts, at least float32."""
    dtypes = (query, *(part.dtype for block in blocks for part in block.parts))
    return reduce(torch.promote_types, dtypes, torch.float32)


@dataclass(frozen=True, eq=False)
class Plane:
    """A block of tokens on an outer x inner grid, ready for the inner function.

    Args:
        parts: each `(B or 1, outer or 1, inner or 1, c)`, masked content zero, a common offset removed.
        rstd: `(B or 1, outer, inner)`, the reciprocal standard deviation of each token.
        mask: `(B or 1, outer, inner)` or None.
    """

    parts: tuple[Tensor, ...]
    rstd: Tensor
    mask: Tensor | None


def collapse(block: Tokens, *, dtype: torch.dtype, eps: float, standardise: Standardise) -> Plane:
    """Collapse tokens on any grid to two axes and standardise them: the last axis is the inner, the others are the outer."""
    grid = block.grid
    outer_grid, inner = grid[:-1], grid[-1]
    outer = prod(outer_grid)

    def collapsed(x: Tensor) -> Tensor:
        """Reshape `(b, n1 or 1, …, nd or 1, c)` to `(b, outer or 1, inner or 1, c)`."""
        if any(size != 1 for size in x.shape[1:-2]):
            return x.expand(-1, *outer_grid, -1, -1).reshape(x.shape[0], outer, *x.shape[-2:])
        return x.reshape(x.shape[0], 1, *x.shape[-2:])

    parts = block.cleaned().parts
    # The last part among those that vary along the fewest axes: content usually comes first, and a table after it may be
    # shared. The choice depends on the grid only. Sizes themselves are not compared: torch.export would fix which of two
    # open axes is longer.
    steady = min(reversed(range(len(parts))), key=lambda index: sum(size != 1 for size in parts[index].shape[1:-1]))
    mask = None
    if block.mask is not None:
        mask = collapsed(block.mask.expand(block.mask.shape[0], *grid)[..., None])[..., 0]
        mask = mask.expand(-1, outer, inner)
    standard, rstd = standardise([collapsed(part.to(dtype)) for part in parts], mask, steady, eps, (outer, inner))
    return Plane(parts=standard, rstd=rstd, mask=mask)


def merge(results: Sequence[tuple[Tensor, Tensor]], *, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Merge the blocks' softmaxes: `(B, R, C)` sums and, if masked, `(B, R)` whether a row found any token."""
    found = None
    if masked:
        found = torch.stack(torch.broadcast_tensors(*(lse for _, lse in results))).isneginf().logical_not().any(dim=0)
    if len(results) == 1:
        return results[0][0], found
    lse = torch.stack(torch.broadcast_tensors(*(lse for _, lse in results)))
    if found is not None:
        # Rows without a token in any block must not cause NaN in the gradient.
        lse = torch.where(lse.isneginf() & ~found, lse.new_zeros(()), lse)
    shares = lse.softmax(dim=0)
    joined = [share[..., None] * sums for share, (sums, _) in zip(shares, results, strict=True)]
    return reduce(torch.add, joined), found
