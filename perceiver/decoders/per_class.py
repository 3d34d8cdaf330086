"""Per-class decoder: a learned query for each class, label or value reads from the latents."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from perceiver.decoders.decoder import Head
from perceiver.decoders.queries import LearnedQueries
from perceiver.decoders.query import QueryDecoder


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
        """Map latents `(B, N, D)` to outputs `(B, num_classes)`."""
        outputs: Tensor = self.decoder(latents)
        return outputs[..., 0]
