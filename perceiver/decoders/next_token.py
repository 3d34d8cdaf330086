"""Head of autoregressive models: the next id of a sequence, from the latent of each position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import Decoder
from perceiver.decoders.decoding import Decoding
from perceiver.decoders.tied_logits import TiedLogits
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.tokens import Tokens


class NextTokenHead(Decoder):
    """Logits of the id after each position that has a latent, with the weights of the input embedding.

    For `perceiver.AutoregressiveEncoder`, whose latents are the last positions of a sequence.

    Args:
        latent_channels: latent width D.
        channels: width of the adapter's embedding.
        vocabulary_size: ids are in [0, vocabulary_size).
        context: most ids that the model reads at a time; a longer text is read through a window of its last ids.
        modality: modality of the sequence.
        end_id: id that ends a text; it also comes before each.
        pad_id: id that fills shorter sequences of a batch.
        generation: how texts are continued in prediction, as arguments of `Decoding`; None: greedily.

    Examples:
        >>> import torch
        >>> from perceiver import LearnedTable
        >>> from perceiver.adapters import TextTokens
        >>> from perceiver.decoders import NextTokenHead
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=32, position=LearnedTable(grid=[64], channels=8))
        >>> head = NextTokenHead(latent_channels=48, channels=32, vocabulary_size=262, context=64)
        >>> head(torch.rand(2, 5, 48), adapters={"text": text}).shape
        torch.Size([2, 5, 262])
    """

    output_channels: int

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: int,
        vocabulary_size: int,
        context: int,
        modality: str = "text",
        end_id: int = 2,
        pad_id: int = 0,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_at_least_one("NextTokenHead", latent_channels=latent_channels, channels=channels, context=context)
        special = {"end_id": end_id, "pad_id": pad_id}
        if not all(0 <= number < vocabulary_size for number in special.values()):
            raise ValueError(f"NextTokenHead: expected ids in [0, vocabulary_size = {vocabulary_size}), got {special}.")
        self.decoding = Decoding.of(generation or {}, where="NextTokenHead.generation")
        self.output_channels = vocabulary_size
        self.context = context
        self.modality = modality
        self.end_id, self.pad_id = end_id, pad_id
        self.norm = nn.LayerNorm(latent_channels)
        self.output = lecun_linear(latent_channels, channels)
        # All ids start equally probable.
        nn.init.zeros_(self.output.weight)
        self.tied_logits = TiedLogits(modality=modality, vocabulary_size=vocabulary_size)

    def forward(
        self,
        latents: Float[Tensor, "batch latents channels"],
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Any = None,
        mask: Any = None,
    ) -> Float[Tensor, "batch latents vocabulary"]:
        """Map latents `(B, N, D)` to logits `(B, N, V)`; see `Decoder.forward`.

        Raises:
            ValueError: for an index or a mask, without an adapter with the embedding, or one of another shape.
        """
        if index is not None or mask is not None:
            raise ValueError("NextTokenHead: expected no index and no mask; it predicts the id after each latent.")
        logits: Tensor = self.tied_logits(self.output(self.norm(latents)), adapters)
        return logits
