"""Self-attention among latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import check_heads, lecun_linear, merge_heads, split_heads
from perceiver.runtime.ranges import check_dropout


class SelfAttention(nn.Module):
    """Pre-LayerNorm multi-head self-attention on SDPA, with one joint projection for queries, keys and values.

    Args:
        channels: D.
        num_heads: attention heads.
        qk_channels: width of queries and keys, all heads together; None takes `channels`.
        v_channels: width of the values; None takes `qk_channels`.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        qk_channels = channels if qk_channels is None else qk_channels
        v_channels = qk_channels if v_channels is None else v_channels
        check_heads("SelfAttention", num_heads, qk_channels=qk_channels, v_channels=v_channels)
        check_dropout("SelfAttention", dropout=dropout)
        self.num_heads = num_heads
        self.widths = (qk_channels, qk_channels, v_channels)
        self.dropout = dropout
        self.norm = nn.LayerNorm(channels)
        self.qkv = lecun_linear(channels, sum(self.widths))
        self.output = lecun_linear(v_channels, channels)

    def forward(self, x: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch latents channels"]:
        """Map latents `(B, N, D)` to `(B, N, D)`, without the residual."""
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(self.norm(x)).split(self.widths, dim=-1))
        dropout = self.dropout if self.training else 0.0
        if not dropout and _products_are_faster(query):
            attended = _attend_by_products(query, key, value)
        else:
            attended = _attend(query, key, value, dropout=dropout)
        out: Tensor = self.output(merge_heads(attended))
        return out

    def weights(self, x: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch heads latents latents"]:
        """Return the attention weights `(B, h, N, N)`; those of a latent sum to 1."""
        query, key, _ = (split_heads(part, self.num_heads) for part in self.qkv(self.norm(x)).split(self.widths, dim=-1))
        weights: Tensor = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return weights


def _attend(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
    """Apply SDPA to queries, keys and values zero-padded to a common width, which its fused kernel requires."""
    width, v_width = query.shape[-1], value.shape[-1]
    if width != v_width:
        query, key, value = (F.pad(x, (0, max(width, v_width) - x.shape[-1])) for x in (query, key, value))
    # Widths are not padded to multiples of 8: that was faster for 10 and 15 channels, slower for 18, 20, 33, 50 and 65.
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=width**-0.5)[..., :v_width]


def _products_are_faster(query: Float[Tensor, "batch heads latents width"]) -> bool:
    """Whether plain matrix products beat SDPA.

    In bfloat16 on CPUs the backward pass of SDPA's fused kernel is slow. Forward and backward with 8 heads took 6 times as
    long as products for 64 latents of 16 channels per head, 3 times for 128 of 64, 1.7 times for 512 of 128. Products keep
    the attention weights for the backward pass; with at most 8 latents per channel of a head these are at most 8 times as
    large as the latents. In float32 the fused kernel was as fast or faster, except for 32 latents of 8 heads of 16 channels,
    where products gained 15%.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= 8 * query.shape[3]


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute `F.scaled_dot_product_attention` with the attention weights in memory."""
    batch, heads, latents, width = query.shape
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    # With beta=0 the first argument is not read, and alpha applies the scale.
    unread = query.new_zeros(1).expand(batch * heads, latents, latents)
    scores = torch.baddbmm(unread, query, key.mT, beta=0, alpha=width**-0.5)
    read: Tensor = torch.bmm(scores.softmax(dim=-1), value).unflatten(0, (batch, heads))
    return read
