"""What `Perceiver` asks of a decoder, in contrast to a head, which is called with the latents alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from perceiver.tokens import Tokens


class Decoder(nn.Module, ABC):
    """Makes outputs of the latents, of what the model read besides (for queries from the input), and of a choice of outputs.

    A model whose head is a `Decoder` hands all of this on; another head gets the latents. Decoders whose queries come from
    nowhere but themselves can be called with the latents alone, too.

    Examples:
        >>> from perceiver.decoders import Decoder, QueryDecoder
        >>> issubclass(QueryDecoder, Decoder)
        True
    """

    @abstractmethod
    def forward(
        self,
        latents: Tensor,
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Any = None,
        mask: Any = None,
    ) -> Any:
        """Latents -> outputs.

        Args:
            latents: `(B, N, D)`.
            tokens: fused tokens of the modalities that are there, as the encoder got them.
            adapters: the model's adapters by modality, for outputs that share their weights.
            index: which outputs to compute, by their places in the flattened output grid: `(k,)` for all samples or
                `(B, k)`; None computes all. Decoders of several outputs take a dict.
            mask: which of these are wanted, True is valid: `(B or 1, *grid)`, or `(B or 1, k)` with an index; others come
                out as zeros. Decoders of several outputs take a dict.
        """
