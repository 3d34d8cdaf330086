"""Vocabulary logits with the weights of the input embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TiedLogits(nn.Module):
    """Products with the embedding of a modality's adapter, plus a separate bias (Perceiver IO, section 4.1).

    The adapter, e.g. `TextTokens`, holds the embedding as its attribute `embedding`, an `nn.Embedding`, and remains the only
    owner of the parameter.

    Args:
        modality: modality of the adapter.
        vocabulary_size: rows of the embedding.

    Examples:
        >>> import torch
        >>> from perceiver import LearnedTable, TiedLogits
        >>> from perceiver.adapters import TextTokens
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=32, position=LearnedTable(grid=[64], channels=8))
        >>> TiedLogits(modality="text", vocabulary_size=262)(torch.rand(2, 5, 32), {"text": text}).shape
        torch.Size([2, 5, 262])
    """

    def __init__(self, *, modality: str, vocabulary_size: int) -> None:
        super().__init__()
        if vocabulary_size < 1:
            raise ValueError(f"TiedLogits.vocabulary_size: expected at least 1, got {vocabulary_size}.")
        self.modality = modality
        self.vocabulary_size = vocabulary_size
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(
        self, x: Float[Tensor, "batch queries channels"], adapters: Mapping[str, nn.Module] | nn.ModuleDict | None
    ) -> Float[Tensor, "batch queries vocabulary"]:
        """Map `(B, k, E)`, where E is the width of the embedding, to `(B, k, vocabulary_size)`.

        Raises:
            ValueError: if there is no such adapter, or its embedding has a different shape.
        """
        adapter = None if adapters is None or self.modality not in adapters else adapters[self.modality]
        embedding = getattr(adapter, "embedding", None)
        if not isinstance(embedding, nn.Embedding):
            raise ValueError(
                f"TiedLogits: expected an adapter {self.modality!r} with an attribute embedding, an nn.Embedding; got "
                f"{'no such adapter' if adapter is None else type(adapter).__name__}."
            )
        expected = (self.vocabulary_size, x.shape[-1])
        if tuple(embedding.weight.shape) != expected:
            raise ValueError(
                f"TiedLogits: expected an embedding of {expected} (vocabulary_size, query channels), but the "
                f"embedding of {self.modality!r} has {tuple(embedding.weight.shape)}."
            )
        return x @ embedding.weight.t() + self.bias

    def extra_repr(self) -> str:
        """Return the description for `print(model)`."""
        return f"modality={self.modality!r}, vocabulary_size={self.vocabulary_size}"
