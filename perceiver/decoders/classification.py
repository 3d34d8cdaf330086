"""Decoders with learned queries for a fixed number of outputs: one query for all of them, or one for each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention import CrossAttend
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import Head
from perceiver.decoders.queries import LearnedQueries
from perceiver.decoders.query import QueryDecoder
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_at_least_one, check_positive
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens


@regularising(dropout=0.0, attention_dropout=0.0)
class ClassificationDecoder(Head):
    """A learned query reads the latents; a linear map computes class logits (Perceiver IO, section 4.3).

    Args:
        latent_channels: latent width D.
        num_classes: number of logits.
        query_channels: E, width of the query; None takes `latent_channels`.
        num_heads: number of attention heads.
        qk_channels: width of queries and keys; None takes `latent_channels`.
        v_channels: width of values; None takes `qk_channels`.
        widening: hidden channels of the feed-forward layer per channel.
        query_residual: add the query to the attention output.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        query_std: standard deviation of the initial query, truncated at two.
        approximate_gelu: use the tanh approximation of GELU.

    Examples:
        >>> import torch
        >>> from perceiver import ClassificationDecoder
        >>> ClassificationDecoder(latent_channels=64, num_classes=10)(torch.rand(2, 16, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        num_classes: int,
        query_channels: int | None = None,
        num_heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        query_std: float = 0.02,
        approximate_gelu: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"ClassificationDecoder.num_classes: expected at least 1, got {num_classes}.")
        query_channels = latent_channels if query_channels is None else query_channels
        check_at_least_one("ClassificationDecoder", query_channels=query_channels)
        check_positive("ClassificationDecoder", query_std=query_std)
        self.output_channels = num_classes
        self.query = nn.Parameter(torch.empty(1, query_channels))
        truncated_normal_(self.query, std=query_std)
        self.cross_attend = CrossAttend(
            query_channels=query_channels,
            token_channels=latent_channels,
            num_heads=num_heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            widening=widening,
            query_residual=query_residual,
            dropout=dropout,
            attention_dropout=attention_dropout,
            approximate_gelu=approximate_gelu,
            attention="dense",
        )
        self.output = lecun_linear(query_channels, num_classes)

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch classes"]:
        """Map latents `(B, N, D)` to logits `(B, num_classes)`."""
        read = self.cross_attend(self.query[None], [Tokens(parts=(latents,))])
        logits: Tensor = self.output(read[:, 0])
        return logits


class PerClassDecoder(Head):
    """A learned query per output reads the latents; a shared linear map computes one value from each.

    The single query of `ClassificationDecoder` must read everything at once. Here, unrelated labels or values can attend to
    different latents.

    Args:
        latent_channels: latent width D.
        num_classes: number of outputs: logits of classes or labels, or values.
        query_channels: E, width of the queries; None takes `latent_channels`.
        num_heads: number of attention heads.
        widening: hidden channels of the feed-forward layer per channel.
        dropout: probability of dropping a channel before each residual in training.

    Raises:
        ValueError: without outputs.

    Examples:
        >>> import torch
        >>> from perceiver.decoders import PerClassDecoder
        >>> PerClassDecoder(latent_channels=64, num_classes=10)(torch.rand(2, 16, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        num_classes: int,
        query_channels: int | None = None,
        num_heads: int = 1,
        widening: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"PerClassDecoder.num_classes: expected at least 1, got {num_classes}.")
        channels = latent_channels if query_channels is None else query_channels
        self.output_channels = num_classes
        self.decoder = QueryDecoder(
            latent_channels=latent_channels,
            queries=LearnedQueries(grid=[num_classes], channels=channels),
            output_channels=1,
            num_heads=num_heads,
            widening=widening,
            query_residual=True,
            dropout=dropout,
        )

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch classes"]:
        """`(B, N, D)` -> `(B, num_classes)`."""
        outputs: Tensor = self.decoder(latents)
        return outputs[..., 0]
