"""Multimodal decoder: outputs of several kinds, whose queries have the same width and share one cross-attend."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.adapters.content import Reconstructible
from perceiver.attention import CrossAttend
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decode import check_chunk_size, decode
from perceiver.decoders.decoder import Decoder
from perceiver.decoders.queries import query_channels
from perceiver.encoders.fusion import Fusion
from perceiver.runtime.ranges import check_at_least_one
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


@regularising(dropout=0.0, attention_dropout=0.0)
class MultimodalDecoder(Decoder):
    """Queries of each output, padded with a learned vector to a common width, read the latents (Perceiver IO, section 4.3).

    The result passes a linear map shared by all outputs, then a linear map per output. Outputs need not be input modalities,
    and outputs whose input is absent are also decoded.

    Args:
        latent_channels: latent width D.
        queries: a query provider for each output, see `queries.py`.
        output_channels: channels of each output; default: the number of values per token of the adapter of that name.
        adapters: adapters of the model; only needed if `output_channels` is incomplete.
        target: output that predicts the spec's target, the class, for `Perceiver.predict`. None: no such output.
        hidden_channels: width between the shared and the separate linear maps; None: only separate maps.
        padding: learned channels of the widest queries, which distinguish outputs.
        padding_std: standard deviation of the initial padding.
        token_channels, num_heads, qk_channels, v_channels, widening, query_residual, chunk_size, dropout,
            attention_dropout, approximate_gelu: as in `QueryDecoder`.

    Examples:
        >>> import torch
        >>> from perceiver import LearnedQueries, MultimodalDecoder
        >>> queries = {"label": LearnedQueries(grid=[1], channels=16), "sound": LearnedQueries(grid=[50], channels=16)}
        >>> decoder = MultimodalDecoder(latent_channels=64, queries=queries, output_channels={"label": 10, "sound": 48})
        >>> {name: tuple(output.shape) for name, output in decoder(torch.rand(2, 16, 64)).items()}
        {'label': (2, 1, 10), 'sound': (2, 50, 48)}
    """

    output_channels: dict[str, int]

    def __init__(
        self,
        *,
        latent_channels: int,
        queries: Mapping[str, nn.Module],
        output_channels: Mapping[str, int] | None = None,
        adapters: Mapping[str, nn.Module] | None = None,
        target: str | None = None,
        hidden_channels: int | None = None,
        padding: int = 2,
        padding_std: float = 0.02,
        token_channels: int | None = None,
        num_heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = False,
        chunk_size: int = 16384,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        approximate_gelu: bool = False,
    ) -> None:
        super().__init__()
        check_chunk_size(chunk_size, owner="MultimodalDecoder")
        self.output_channels = _output_channels(queries, output_channels or {}, adapters or {})
        if target is not None and target not in queries:
            raise ValueError(f"MultimodalDecoder.target: expected one of the outputs {sorted(queries)}, got {target!r}.")
        self.target = target
        widths = {name: query_channels(queries[name], token_channels, owner="MultimodalDecoder") for name in sorted(queries)}
        # The fusion of inputs pads to a common width with a learned vector; queries need the same.
        self.fusion = Fusion(channels=widths, padding=padding, std=padding_std)
        self.query_channels = self.fusion.channels
        self.chunk_size = chunk_size
        self.queries = nn.ModuleDict({name: queries[name] for name in sorted(queries)})
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
        if hidden_channels is not None:
            check_at_least_one("MultimodalDecoder", hidden_channels=hidden_channels)
        self.hidden = nn.Identity() if hidden_channels is None else lecun_linear(self.query_channels, hidden_channels)
        width = self.query_channels if hidden_channels is None else hidden_channels
        self.outputs = nn.ModuleDict({name: lecun_linear(width, size) for name, size in self.output_channels.items()})

    def forward(
        self,
        latents: Float[Tensor, "batch latents channels"],
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Mapping[str, Tensor | None] | None = None,
        mask: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Float[Tensor, "batch *grid outputs"]]:
        """Map latents to `(B, *grid, outputs)` for each output, or `(B, k, outputs)` for an output with an index.

        `index` and `mask` are dicts by output; outputs without an entry (or with None) are computed completely. An output
        with an empty index, `(0,)`, is not computed: it is `(B, 0, outputs)`, and its separate parameters get zero
        gradients. See `Decoder` and `decode`.

        Raises:
            ValueError: if one of them names an unknown output.
        """
        index, mask = index or {}, mask or {}
        unknown = (set(index) | set(mask)) - set(self.queries)
        if unknown:
            raise ValueError(f"index, mask: expected any of the outputs {sorted(self.queries)}, got {sorted(unknown)}.")
        none = [name for name, places in index.items() if places is not None and places.shape[-1] == 0]
        read = {} if tokens is None else tokens
        queries = self.fusion({name: own(read, latents.device) for name, own in self.queries.items() if name not in none})
        if none:
            # Data-parallel training waits for every parameter.
            unused = [parameter for name in none for parameter in self._parameters_of(name)]
            latents = with_zero_gradients(latents, [*self.cross_attend.parameters(), *self.hidden.parameters(), *unused])
        return {
            name: latents.new_zeros(latents.shape[0], 0, self.output_channels[name])
            if name in none
            else decode(
                self.cross_attend,
                queries[name],
                latents,
                output=lambda read, name=name: self.outputs[name](self.hidden(read)),  # type: ignore[misc]
                chunk_size=self.chunk_size,
                index=index.get(name),
                mask=mask.get(name),
            )
            for name in self.queries
        }

    def _parameters_of(self, name: str) -> list[Tensor]:
        """Return the parameters that only this output uses."""
        own = [*self.queries[name].parameters(), *self.outputs[name].parameters()]
        return own + ([self.fusion.padding[name]] if name in self.fusion.padding else [])


def _output_channels(
    queries: Mapping[str, nn.Module], given: Mapping[str, int], adapters: Mapping[str, nn.Module]
) -> dict[str, int]:
    """Return the channels of each output, in sorted order; ValueError for an output without channels or queries."""
    channels = dict(given)
    for name in queries:
        adapter: object = adapters.get(name)
        if name not in channels and isinstance(adapter, Reconstructible):
            channels[name] = adapter.content_channels
    if not queries or set(queries) != set(channels) or min(channels.values()) < 1:
        raise ValueError(
            "MultimodalDecoder: expected queries and a positive number of output_channels for the same outputs, got "
            f"queries for {sorted(queries)}, output_channels {dict(given)}. Channels may be left out for modalities whose "
            "adapter is a perceiver.adapters.Reconstructible."
        )
    return {name: channels[name] for name in sorted(queries)}
