"""Cross-attention to tokens that are projected once and read many times, as a decoder does at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perceiver.attention.cross import CrossAttention
from perceiver.attention.forms.dense import normalised_tokens
from perceiver.attention.projection import merge_heads, split_heads
from perceiver.tokens.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class ProjectedTokens:
    """Keys and values of all blocks of tokens, side by side.

    Args:
        key: `(B, h, M, d)`.
        value: `(B, h, M, dv)`.
        mask: `(B, M)`, True where a token is valid; None: all are.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None = None

    def valid(self) -> Bool[Tensor, "batch tokens"]:
        """Return the mask, all True if there is none."""
        return self.key.new_ones(self.key.shape[0], self.key.shape[2], dtype=torch.bool) if self.mask is None else self.mask

    def followed_by(self, others: ProjectedTokens) -> ProjectedTokens:
        """Return these tokens and, after them, others of the same samples."""
        masked = self.mask is not None or others.mask is not None
        return ProjectedTokens(
            key=torch.cat([self.key, others.key], dim=2),
            value=torch.cat([self.value, others.value], dim=2),
            mask=torch.cat([self.valid(), others.valid()], dim=1) if masked else None,
        )

    def reorder(self, index: Int[Tensor, "rows"]) -> ProjectedTokens:
        """Return the tokens of the samples `index`, in this order; a sample may occur several times or not at all."""
        mask = None if self.mask is None else self.mask[index]
        return replace(self, key=self.key[index], value=self.value[index], mask=mask)


def project(attention: CrossAttention, blocks: Sequence[Tokens]) -> ProjectedTokens:
    """Project tokens to keys and values with the weights of an attention layer.

    Raises:
        ValueError: if there is no block, or a block's width differs from `token_channels`.
    """
    attention.check_blocks(blocks)
    tokens, mask = normalised_tokens(blocks, attention.tokens)
    key = split_heads(attention.tokens.key(tokens), attention.num_heads)
    value = split_heads(attention.tokens.value(tokens), attention.num_heads)
    return ProjectedTokens(key=key, value=value, mask=None if mask is None else mask.expand(key.shape[0], -1))


def read(
    attention: CrossAttention, queries: Float[Tensor, "batch queries channels"], tokens: ProjectedTokens
) -> Float[Tensor, "batch queries channels"]:
    """Compute `attention(queries, blocks)` from tokens that `project` has projected."""
    query = split_heads(attention.query(attention.query_norm(queries)), attention.num_heads)
    visible = None if tokens.mask is None else tokens.mask[:, None, None, :]
    dropout = attention.dropout if attention.training else 0.0
    out = F.scaled_dot_product_attention(query, tokens.key, tokens.value, attn_mask=visible, dropout_p=dropout)
    if visible is not None:
        out = torch.where(visible.any(dim=-1, keepdim=True), out, out.new_zeros(()))
    result: Tensor = attention.output(merge_heads(out))
    return result


def read_weights(
    attention: CrossAttention, queries: Float[Tensor, "batch queries channels"], tokens: ProjectedTokens
) -> Float[Tensor, "batch heads queries tokens"]:
    """Return the weights with which `read` reads: they sum to 1 for each query, or to 0 without a valid token."""
    query = split_heads(attention.query(attention.query_norm(queries)), attention.num_heads)
    scores = (query * query.shape[-1] ** -0.5) @ tokens.key.transpose(-1, -2)
    if tokens.mask is None:
        everywhere: Tensor = scores.softmax(dim=-1)
        return everywhere
    visible = tokens.mask[:, None, None, :]
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    shown: Tensor = torch.where(visible, weights, weights.new_zeros(())).nan_to_num(0.0)
    return shown
