"""Layers of encoders and decoders: cross- or self-attention followed by feed-forward, each with a residual."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.attention.causal import CausalSelfAttention, PastKeys
from perceiver.attention.cross import CrossAttention, Form
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.self_attention import SelfAttention
from perceiver.runtime.ranges import check_at_least_one, check_dropout
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens


@regularising(dropout=0.0, attention_dropout=0.0)
class CrossAttend(nn.Module):
    """Cross-attention followed by feed-forward, with residuals.

    Args:
        query_channels: width of the queries.
        token_channels: width of the tokens.
        num_heads: attention heads.
        qk_channels: see `CrossAttention`.
        v_channels: see `CrossAttention`.
        widening: hidden channels of the feed-forward layer per channel.
        query_residual: add the queries to the output of attention; some published decoders do not.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        approximate_gelu: see `FeedForward`.
        attention: see `CrossAttention`.
    """

    def __init__(
        self,
        *,
        query_channels: int,
        token_channels: int,
        num_heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        approximate_gelu: bool = False,
        attention: Form = "auto",
    ) -> None:
        super().__init__()
        check_dropout("CrossAttend", dropout=dropout, attention_dropout=attention_dropout)
        check_at_least_one("CrossAttend", query_channels=query_channels, token_channels=token_channels, widening=widening)
        self.query_residual = query_residual
        self.attention = CrossAttention(
            query_channels=query_channels,
            token_channels=token_channels,
            num_heads=num_heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            dropout=attention_dropout,
            attention=attention,
        )
        self.feed_forward = FeedForward(channels=query_channels, widening=widening, approximate_gelu=approximate_gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Float[Tensor, "batch_or_1 queries channels"], blocks: Sequence[Tokens]
    ) -> Float[Tensor, "batch queries channels"]:
        """Attend from queries `(B or 1, N, E)` to blocks of tokens -> `(B, N, E)`."""
        read = self.dropout(self.attention(queries, blocks))
        x = queries + read if self.query_residual else read
        out: Tensor = x + self.dropout(self.feed_forward(x))
        return out


@regularising(dropout=0.0, attention_dropout=0.0)
class SelfAttend(nn.Module):
    """Self-attention followed by feed-forward, with residuals.

    Args:
        channels: D.
        num_heads: attention heads.
        qk_channels: see `SelfAttention`.
        v_channels: see `SelfAttention`.
        widening: hidden channels of the feed-forward layer per channel.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        approximate_gelu: see `FeedForward`.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        approximate_gelu: bool = False,
    ) -> None:
        super().__init__()
        check_dropout("SelfAttend", dropout=dropout, attention_dropout=attention_dropout)
        check_at_least_one("SelfAttend", channels=channels, widening=widening)
        self.attention = SelfAttention(
            channels=channels,
            num_heads=num_heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            dropout=attention_dropout,
        )
        self.feed_forward = FeedForward(channels=channels, widening=widening, approximate_gelu=approximate_gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch latents channels"]:
        """Map latents `(B, N, D)` to `(B, N, D)`."""
        x = x + self.dropout(self.attention(x))
        out: Tensor = x + self.dropout(self.feed_forward(x))
        return out


@regularising(dropout=0.0)
class CausalSelfAttend(nn.Module):
    """Causal self-attention followed by feed-forward, with residuals, whole or in steps.

    Args:
        channels: D.
        num_heads: attention heads.
        widening: hidden channels of the feed-forward layer per channel.
        rotary: see `CausalSelfAttention`.
        dropout: probability of dropping a channel before each residual in training.
        approximate_gelu: see `FeedForward`.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int = 8,
        widening: int = 1,
        rotary: bool = False,
        dropout: float = 0.0,
        approximate_gelu: bool = False,
    ) -> None:
        super().__init__()
        check_dropout("CausalSelfAttend", dropout=dropout)
        check_at_least_one("CausalSelfAttend", channels=channels, widening=widening)
        self.attention = CausalSelfAttention(channels=channels, num_heads=num_heads, rotary=rotary)
        self.feed_forward = FeedForward(channels=channels, widening=widening, approximate_gelu=approximate_gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length channels"],
        past: PastKeys | None = None,
        mask: Bool[Tensor, "batch all"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], PastKeys]:
        """Map `(B, L, D)` to `(B, L, D)`, and return keys and values of all positions; see `CausalSelfAttention`."""
        attended, keys = self.attention(x, past, mask)
        x = x + self.dropout(attended)
        out: Tensor = x + self.dropout(self.feed_forward(x))
        return out, keys
