"""Causal cross-attention: the last positions of a sequence read all positions before them and themselves.

Perceiver AR (Hawthorne et al. 2022, arXiv:2202.07765). The sequence has a prefix of P tokens, which all queries read, and a
tail of one token for each of the N queries, of which query i reads the first i + 1. Only the N x N part needs a causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.attention.cross import CrossAttention
from perceiver.attention.forms.absorbed import absorb
from perceiver.attention.forms.absorbed import project as project_sums
from perceiver.attention.forms.factored import Plane, collapse, common_dtype, merge
from perceiver.attention.kernels.contract import call
from perceiver.attention.kernels.dispatch import implementation
from perceiver.attention.projected import ProjectedTokens, project
from perceiver.attention.projection import merge_heads, split_heads
from perceiver.tokens.tokens import Tokens


def attend_causally(
    attention: CrossAttention, queries: Float[Tensor, "batch queries channels"], prefix: Sequence[Tokens], tail: Tokens
) -> Float[Tensor, "batch queries channels"]:
    """Attend from queries `(B, N, E)` to a prefix and, causally, to a tail of N tokens -> `(B, N, E)`.

    The form is that of `attention.form` for these tokens. The factored form reads the prefix without multiplying it out,
    and merges the tail by its log-sum-exp. Attention weights are not dropped in training, whatever `attention.dropout`.

    Args:
        attention: weights, and choice of the form.
        queries: a query for each token of the tail.
        prefix: blocks of tokens before the tail, possibly none.
        tail: N tokens on a one-axis grid.

    Raises:
        ValueError: for another number of queries than tokens of the tail, or tokens of another width.
    """
    blocks = [*prefix, tail]
    attention.check_blocks(blocks)
    if tail.grid != (queries.shape[1],):
        raise ValueError(
            f"attend_causally: expected a tail with a token for each of the {queries.shape[1]} queries, got the grid "
            f"{tail.grid}."
        )
    if attention.form(blocks, num_queries=queries.shape[1]) == "factored":
        return _factored(attention, queries, prefix, tail)
    return read_causally(attention, queries, [project(attention, blocks)])


def read_causally(
    attention: CrossAttention, queries: Float[Tensor, "batch queries channels"], tokens: Sequence[ProjectedTokens]
) -> Float[Tensor, "batch queries channels"]:
    """Compute the same from tokens that `project` has projected, in pieces; the last tokens are those of the queries.

    Several pieces, as of a cache whose first piece never changes, are not joined: their scores are.
    """
    query = split_heads(attention.query(attention.query_norm(queries)), attention.num_heads)
    count = query.shape[2]
    total = sum(piece.key.shape[2] for piece in tokens)
    visible = _visible(tokens, count, total, device=queries.device)
    if len(tokens) == 1:
        [piece] = tokens
        out = F.scaled_dot_product_attention(query, piece.key, piece.value, attn_mask=visible)
    else:
        scaled = query * query.shape[-1] ** -0.5
        scores = torch.cat([scaled @ piece.key.transpose(-1, -2) for piece in tokens], dim=-1)
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        shares = scores.softmax(dim=-1).split([piece.key.shape[2] for piece in tokens], dim=-1)
        out = torch.stack([share @ piece.value for share, piece in zip(shares, tokens, strict=True)]).sum(dim=0)
    if visible is not None and any(piece.mask is not None for piece in tokens):
        out = torch.where(visible.any(dim=-1, keepdim=True), out, out.new_zeros(()))
    result: Tensor = attention.output(merge_heads(out))
    return result


def causal_weights(
    attention: CrossAttention, queries: Float[Tensor, "batch queries channels"], tokens: ProjectedTokens
) -> Float[Tensor, "batch heads queries tokens"]:
    """Return the weights with which `read_causally` reads: they sum to 1 for each query, or to 0 without a valid token."""
    query = split_heads(attention.query(attention.query_norm(queries)), attention.num_heads)
    scores = (query * query.shape[-1] ** -0.5) @ tokens.key.transpose(-1, -2)
    visible = _visible([tokens], query.shape[2], tokens.key.shape[2], device=queries.device)
    if visible is None:
        everywhere: Tensor = scores.softmax(dim=-1)
        return everywhere
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    shown: Tensor = torch.where(visible, weights, weights.new_zeros(())).nan_to_num(0.0)
    return shown


def _visible(tokens: Sequence[ProjectedTokens], count: int, total: int, *, device: torch.device) -> Tensor | None:
    """Return which tokens each query reads, `(B or 1, 1, N, M)`; None: all."""
    earlier = None
    if count > 1:
        earlier = torch.ones(count, total, dtype=torch.bool, device=device).tril(total - count)[None, None]
    if all(piece.mask is None for piece in tokens):
        return earlier
    valid = torch.cat([piece.valid() for piece in tokens], dim=1)[:, None, None]
    return valid if earlier is None else valid & earlier


def _factored(attention: CrossAttention, queries: Tensor, prefix: Sequence[Tokens], tail: Tokens) -> Tensor:
    """Read the prefix with the kernels of the factored form and the tail in plain operators; merge their softmaxes."""
    projection, num_heads = attention.tokens, attention.num_heads
    with torch.autocast(queries.device.type, enabled=False):
        blocks = [*prefix, tail]
        dtype = common_dtype(attention.query.weight.dtype, blocks)
        query = split_heads(attention.query(attention.query_norm(queries)), num_heads)
        rows = absorb(query.to(dtype), projection).flatten(1, 2)
        kernel = implementation(queries.device, dtype).kernel
        planes = [collapse(block, dtype=dtype, eps=projection.norm.eps, standardise=kernel.standardise) for block in blocks]
        results = [call(kernel.read, rows, plane.parts, plane.rstd, plane.mask) for plane in planes[:-1]]
        results.append(_read_tail(rows, planes[-1], num_heads=num_heads))
        masked = any(block.mask is not None for block in blocks)
        sums, found = merge(results, masked=masked)
        read = project_sums(sums.unflatten(1, (num_heads, -1)), projection)
        if found is not None:
            read = torch.where(found.reshape(*read.shape[:3], 1), read, read.new_zeros(()))
    out: Tensor = attention.output(merge_heads(read).to(queries.dtype))
    return out


def _read_tail(
    rows: Float[Tensor, "batch rows channels"], plane: Plane, *, num_heads: int
) -> tuple[Float[Tensor, "batch rows channels"], Float[Tensor, "batch rows"]]:
    """Compute the inner function of the factored form (see `kernels/eager.py`) for a tail, causally.

    Rows are heads x N queries. The parts are small here, so they are multiplied out.
    """
    tail = plane.rstd.shape[-1]
    batch = max(rows.shape[0], plane.rstd.shape[0], *(part.shape[0] for part in plane.parts))
    tokens = torch.cat([part.expand(batch, 1, tail, -1) for part in plane.parts], dim=-1)[:, 0] * plane.rstd[:, 0, :, None]
    visible: Bool[Tensor, "..."] = torch.ones(tail, tail, dtype=torch.bool, device=rows.device).tril().repeat(num_heads, 1)
    if plane.mask is not None:
        visible = visible & plane.mask[:, :1]
    scores = torch.where(visible, rows @ tokens.transpose(1, 2), torch.finfo(rows.dtype).min)
    top = scores.detach().amax(dim=-1, keepdim=True)
    weights = torch.where(visible, (scores - top).exp(), 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    sums = (weights @ tokens) / torch.where(total == 0, 1.0, total)
    lse = torch.where(total == 0, -torch.inf, top + torch.where(total == 0, 1.0, total).log())
    return sums, lse[..., 0].expand(batch, -1)
