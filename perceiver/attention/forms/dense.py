"""The dense form of cross-attention: expand the tokens, normalise, project, and attend with SDPA.

It is the reference for the other forms, and the cheapest form for many heads or wide tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.attention.projection import TokenProjection, split_heads
from perceiver.tokens.tokens import Tokens


def dense_attention(
    query: Float[Tensor, "batch_or_1 heads queries qk"],
    blocks: Sequence[Tokens],
    projection: TokenProjection,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries v"]:
    """Attend from projected queries to all valid tokens of all blocks together, in a single softmax.

    Args:
        query: `(B or 1, h, N, d)`, projected but not scaled.
        blocks: the tokens of each modality, all of the same width.
        projection: normalisation, key and value weights for the tokens.
        dropout: probability of dropping an attention weight; the caller passes 0 in evaluation.

    Returns:
        `(B, h, N, dv)`, the read-outs before the output projection; zeros for samples without a valid token.
    """
    num_heads, width = query.shape[1], query.shape[-1]
    v_width = projection.value.out_features // num_heads
    # A common width of queries, keys and values, a multiple of 8, keeps SDPA on its fused kernels; zeros change nothing.
    padded = -(-max(width, v_width) // 8) * 8
    normed, mask = normalised_tokens(blocks, projection)
    batch = max(query.shape[0], normed.shape[0])
    key = split_heads(_padded_linear(normed, projection.key, num_heads, padded), num_heads)
    value = split_heads(_padded_linear(normed, projection.value, num_heads, padded), num_heads)
    out = F.scaled_dot_product_attention(
        F.pad(query, (0, padded - width)).expand(batch, -1, -1, -1).to(key.dtype),
        key.expand(batch, -1, -1, -1),
        value.expand(batch, -1, -1, -1),
        attn_mask=None if mask is None else mask[:, None, None, :].expand(batch, -1, query.shape[2], -1),
        dropout_p=dropout,
        scale=width**-0.5,
    )[..., :v_width]
    return out if mask is None else torch.where(mask.any(dim=1)[:, None, None, None], out, out.new_zeros(()))


def dense_weights(
    query: Float[Tensor, "batch_or_1 heads queries qk"], blocks: Sequence[Tokens], projection: TokenProjection
) -> tuple[Float[Tensor, "batch heads queries *grid"], ...]:
    """Return the attention weights, one tensor `(B, h, N, *grid)` per block; over all blocks they sum to 1 (or 0)."""
    normed, mask = normalised_tokens(blocks, projection)
    key = split_heads(projection.key(normed), query.shape[1])
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2).to(query.dtype)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        visible = mask[:, None, None, :]
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        weights = torch.where(visible.any(dim=-1, keepdim=True) & visible, weights, weights.new_zeros(()))
    pieces = weights.split([block.num_tokens for block in blocks], dim=-1)
    return tuple(piece.reshape(*piece.shape[:-1], *block.grid) for piece, block in zip(pieces, blocks, strict=True))


def normalised_tokens(
    blocks: Sequence[Tokens], projection: TokenProjection
) -> tuple[Float[Tensor, "batch tokens channels"], Bool[Tensor, "batch tokens"] | None]:
    """Expand all blocks, join them along the tokens and normalise; with their joint mask (None: all valid)."""
    return projection.norm(joint_tokens(blocks, projection.norm.weight.dtype)), joint_mask(blocks)


def joint_tokens(blocks: Sequence[Tokens], dtype: torch.dtype) -> Float[Tensor, "batch tokens channels"]:
    """Expand all blocks and join them along the tokens."""
    dense = [block.dense().to(dtype) for block in blocks]
    batch = max(block.shape[0] for block in dense)
    return torch.cat([block.expand(batch, -1, -1) for block in dense], dim=1) if len(dense) > 1 else dense[0]


def joint_mask(blocks: Sequence[Tokens]) -> Bool[Tensor, "batch tokens"] | None:
    """Return the mask of the joined tokens; None if all are valid."""
    masks = [block.dense_mask() for block in blocks]
    if all(mask is None for mask in masks):
        return None
    batch = max(block.batch for block in blocks)
    filled = [
        torch.ones(1, block.num_tokens, dtype=torch.bool, device=block.device) if mask is None else mask
        for mask, block in zip(masks, blocks, strict=True)
    ]
    return torch.cat([mask.expand(batch, -1) for mask in filled], dim=1)


def _padded_linear(x: Tensor, layer: torch.nn.Linear, num_heads: int, width: int) -> Tensor:
    """Apply a linear map with outputs zero-padded to `width` channels per head: cheaper than padding the result."""
    unpadded = layer.out_features // num_heads
    if unpadded == width:
        return F.linear(x, layer.weight, layer.bias)
    weight = F.pad(layer.weight.reshape(num_heads, unpadded, -1), (0, 0, 0, width - unpadded)).flatten(0, 1)
    bias = F.pad(layer.bias.reshape(num_heads, unpadded), (0, width - unpadded)).flatten()
    return F.linear(x, weight, bias)
