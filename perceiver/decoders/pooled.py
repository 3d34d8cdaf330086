"""Pooled head: pooling over the latents and a linear map."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import Head
from perceiver.runtime.ranges import check_dropout


class PooledHead(Head):
    """Mean over the latents, then a linear map to class logits (Perceiver, section 3.1).

    Args:
        latent_channels: latent width D.
        num_classes: number of logits.
        dropout: probability of dropping a channel of the mean in training.

    Examples:
        >>> import torch
        >>> from perceiver import PooledHead
        >>> PooledHead(latent_channels=64, num_classes=10)(torch.rand(2, 16, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, *, latent_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"PooledHead.num_classes: expected at least 1, got {num_classes}.")
        check_dropout("PooledHead", dropout=dropout)
        self.output_channels = num_classes
        self.dropout = nn.Dropout(dropout)
        self.output = lecun_linear(latent_channels, num_classes)

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch classes"]:
        """Map latents `(B, N, D)` to logits `(B, num_classes)`."""
        logits: Tensor = self.output(self.dropout(latents.mean(dim=1)))
        return logits
