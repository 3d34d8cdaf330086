"""General query decoder: any queries, one output per query."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention import CrossAttend
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decode import check_chunk_size, decode
from perceiver.decoders.decoder import Decoder
from perceiver.decoders.queries import query_channels
from perceiver.decoders.tied_logits import TiedLogits
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens


@regularising(dropout=0.0, attention_dropout=0.0)
class QueryDecoder(Decoder):
    """Queries read the latents; each gives one output (Perceiver IO, section 3.2).

    Args:
        latent_channels: latent width D.
        queries: a query provider, see `queries.py`.
        output_channels: channels of the final linear map; None: no map, outputs have the E channels of the queries.
        tied_logits: computes logits from the result (after the linear map, with `output_channels`).
        token_channels: token width C of the encoder, required by `InputQueries`.
        num_heads: number of attention heads.
        qk_channels: width of queries and keys; None takes `latent_channels`.
        v_channels: width of values; None takes `qk_channels`.
        widening: hidden channels of the feed-forward layer per channel.
        query_residual: add the query to the attention output; disable if queries are positions and outputs are not.
        scale: factor of the outputs; 0.01 in the released model of optical flow.
        chunk_size: number of queries at a time, which bounds memory, see `decode`.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        approximate_gelu: use the tanh approximation of GELU.

    Attributes:
        output_channels: size of the last axis of the outputs, with or without `tied_logits`.
        modality: modality whose tokens the outputs describe, from `tied_logits` or the queries; or None.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier, PositionalQueries, QueryDecoder
        >>> queries = PositionalQueries(position=Fourier(num_bands=4, resolution=(14, 24)), grid=[14, 24])
        >>> decoder = QueryDecoder(latent_channels=64, queries=queries, output_channels=11)
        >>> decoder(torch.rand(2, 16, 64)).shape
        torch.Size([2, 14, 24, 11])
        >>> decoder(torch.rand(2, 16, 64), index=torch.tensor([0, 5, 9])).shape
        torch.Size([2, 3, 11])
    """

    output_channels: int

    def __init__(
        self,
        *,
        latent_channels: int,
        queries: nn.Module,
        output_channels: int | None = None,
        tied_logits: TiedLogits | None = None,
        token_channels: int | None = None,
        num_heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = False,
        scale: float = 1.0,
        chunk_size: int = 16384,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        approximate_gelu: bool = False,
    ) -> None:
        super().__init__()
        check_chunk_size(chunk_size, owner="QueryDecoder")
        if output_channels is not None and output_channels < 1:
            raise ValueError(f"QueryDecoder.output_channels: expected at least 1, or None, got {output_channels}.")
        self.query_channels = query_channels(queries, token_channels, owner="QueryDecoder")
        self.scale = scale
        self.chunk_size = chunk_size
        self.queries = queries
        self.cross_attend = CrossAttend(
            query_channels=self.query_channels,
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
        self.output = nn.Identity() if output_channels is None else lecun_linear(self.query_channels, output_channels)
        self.tied_logits = tied_logits
        if tied_logits is not None:
            self.output_channels = tied_logits.vocabulary_size
        else:
            self.output_channels = self.query_channels if output_channels is None else output_channels
        named: str | None = getattr(queries if tied_logits is None else tied_logits, "modality", None)
        self.modality = named

    def forward(
        self,
        latents: Float[Tensor, "batch latents channels"],
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "batch *grid outputs"]:
        """Map latents to `(B, *grid, outputs)`, or `(B, k, outputs)` with an index. See `Decoder` and `decode`."""
        queries = self.queries({} if tokens is None else tokens, latents.device)
        if queries.channels != self.query_channels:
            raise ValueError(
                f"QueryDecoder: expected queries of {self.query_channels} channels, got {queries.channels} (parts "
                f"{[tuple(part.shape) for part in queries.parts]}). Was the decoder built for this model's tokens?"
            )

        def output(read: Tensor) -> Tensor:
            outputs: Tensor = self.output(read)
            if self.tied_logits is not None:
                outputs = self.tied_logits(outputs, adapters)
            return outputs if self.scale == 1 else outputs * self.scale

        return decode(self.cross_attend, queries, latents, output=output, chunk_size=self.chunk_size, index=index, mask=mask)
