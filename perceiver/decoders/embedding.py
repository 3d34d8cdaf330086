"""Head for embeddings: samples of any modalities as points on one unit sphere."""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import Head
from perceiver.runtime.ranges import check_at_least_one, check_positive

MOST_SCALE = 100.0
"""Largest factor of cosines; CLIP clips at the same value, since training diverges beyond it."""


class EmbeddingHead(Head):
    """Mean over the latents, a linear map, and projection onto the unit sphere.

    The dot product of two embeddings is their cosine, whatever the modalities they come from. `similarities` turns cosines
    into logits with a learned factor (the inverse temperature) and offset, as CLIP (Radford et al. 2021, section 2.3) and
    SigLIP (Zhai et al. 2023) do. `perceiver.objectives.Contrastive` trains it.

    Args:
        latent_channels: latent width D.
        embedding_channels: width of the embeddings.
        scale: initial factor of cosines; learned.
        offset: initial offset; learned. Only the sigmoid loss uses it.

    Examples:
        >>> import torch
        >>> from perceiver.decoders import EmbeddingHead
        >>> head = EmbeddingHead(latent_channels=64, embedding_channels=16)
        >>> embeddings = head(torch.rand(3, 8, 64)).detach()
        >>> embeddings.shape, round(float(embeddings[0].norm()), 4)
        (torch.Size([3, 16]), 1.0)
        >>> head.similarities(embeddings, embeddings).shape
        torch.Size([3, 3])
    """

    def __init__(
        self, *, latent_channels: int, embedding_channels: int = 128, scale: float = 10.0, offset: float = 0.0
    ) -> None:
        super().__init__()
        check_at_least_one("EmbeddingHead", embedding_channels=embedding_channels)
        check_positive("EmbeddingHead", scale=scale)
        self.output_channels = embedding_channels
        self.output = lecun_linear(latent_channels, embedding_channels)
        self.log_scale = nn.Parameter(torch.tensor(log(scale)))
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(self, latents: Float[Tensor, "batch latents channels"]) -> Float[Tensor, "batch embedding"]:
        """Map latents `(B, N, D)` to unit vectors `(B, E)`, in float32 at least."""
        points: Tensor = self.output(latents.mean(dim=1))
        return F.normalize(points.to(torch.promote_types(points.dtype, torch.float32)), dim=-1)

    def similarities(
        self, queries: Float[Tensor, "queries embedding"], candidates: Float[Tensor, "candidates embedding"]
    ) -> Float[Tensor, "queries candidates"]:
        """Return the scaled cosines of embeddings, plus the offset; under autocast, too, in the embeddings' precision."""
        # In bfloat16, logits of up to 100 would be off by 0.25.
        with torch.autocast(queries.device.type, enabled=False):
            return self.log_scale.clamp(max=log(MOST_SCALE)).exp() * (queries @ candidates.t()) + self.offset
