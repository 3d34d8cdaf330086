"""Self-attention among latents."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import check_heads, lecun_linear, merge_heads, split_heads


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
        self.num_heads = num_heads
        self.widths = (qk_channels, qk_channels, v_channels)
        self.dropout = dropout
        self.norm = nn.LayerNorm(channels)
        self.qkv = lecun_linear(channels, sum(self.widths))
        self.output = lecun_linear(v_channels, channels)

    def forward(self, x: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch latents channels"]:
        """`(B, N, D)` -> `(B, N, D)`, without the residual."""
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(self.norm(x)).split(self.widths, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.output(merge_heads(attended))
        return out
