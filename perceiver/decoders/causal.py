"""Causal decoder: a sequence of ids, each predicted from the ids before it and from the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perceiver.attention import CrossAttention
from perceiver.attention.causal import CausalSelfAttention, PastKeys
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.projected import ProjectedTokens, project, read, read_weights
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import SequenceDecoder
from perceiver.decoders.decoding import Decoding
from perceiver.decoders.memory import Memory
from perceiver.decoders.sequence_loss import SequenceLoss, SequenceLosses
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_at_least_one, check_dropout
from perceiver.runtime.regularising import regularising


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a decoder keeps between the steps of a sequence; plain tensors, never state of the module.

    Args:
        memory: projected memory, one per layer.
        past: keys and values of the ids so far, one per layer; empty at the start.
        mask: `(B, S)`, True where an id is valid; None: all are.
        length: S, the number of ids so far.
    """

    memory: tuple[ProjectedTokens, ...]
    past: tuple[PastKeys, ...] = ()
    mask: Tensor | None = None
    length: int = 0

    def reorder(self, index: Int[Tensor, "rows"]) -> Cache:
        """Return the rows `index`, in this order: beams that are kept, repeated or dropped, or rows that are unfinished."""
        return replace(
            self,
            memory=tuple(tokens.reorder(index) for tokens in self.memory),
            past=tuple(keys.reorder(index) for keys in self.past),
            mask=None if self.mask is None else self.mask[index],
        )

    def reorder_past(self, index: Int[Tensor, "rows"]) -> Cache:
        """Return the rows `index` where each takes the memory of the row that it replaces: beams of one sample."""
        return replace(
            self,
            past=tuple(keys.reorder(index) for keys in self.past),
            mask=None if self.mask is None else self.mask[index],
        )

    def cut(self, length: int) -> Cache:
        """Return the cache after the first `length` ids.

        Raises:
            ValueError: if there are fewer.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"Cache.cut: expected a length of 0 to {self.length}, got {length}.")
        return replace(
            self,
            past=tuple(keys.cut(length) for keys in self.past) if length else (),
            mask=None if self.mask is None else self.mask[:, :length],
            length=length,
        )


class CausalLayer(nn.Module):
    """Causal self-attention, cross-attention to the memory, and feed-forward, each with a residual.

    Args:
        channels: width E of the sequence.
        memory_channels: width of the memory.
        num_heads: heads of both attentions.
        widening: hidden channels of the feed-forward layer per channel.
        dropout: probability of dropping a channel before each residual in training.
        attention_dropout: probability of dropping an attention weight in training.
        approximate_gelu: use the tanh approximation of GELU.
    """

    def __init__(
        self,
        *,
        channels: int,
        memory_channels: int,
        num_heads: int,
        widening: int,
        dropout: float,
        attention_dropout: float,
        approximate_gelu: bool,
    ) -> None:
        super().__init__()
        self.self_attention = CausalSelfAttention(channels=channels, num_heads=num_heads, dropout=attention_dropout)
        self.cross_attention = CrossAttention(
            query_channels=channels,
            token_channels=memory_channels,
            num_heads=num_heads,
            qk_channels=channels,
            dropout=attention_dropout,
            attention="dense",
        )
        self.feed_forward = FeedForward(channels=channels, widening=widening, approximate_gelu=approximate_gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: ProjectedTokens,
        past: PastKeys | None,
        mask: Tensor | None,
        *,
        observe: Callable[[Tensor, ProjectedTokens], None] | None = None,
    ) -> tuple[Tensor, PastKeys]:
        """Map `(B, L, E)` to `(B, L, E)`; see `CausalSelfAttention`. `observe` gets what cross-attention gets."""
        attended, keys = self.self_attention(x, past, mask)
        x = x + self.dropout(attended)
        if observe is not None:
            observe(x, memory)
        x = x + self.dropout(read(self.cross_attention, x, memory))
        return x + self.dropout(self.feed_forward(x)), keys


@regularising(dropout=0.0, attention_dropout=0.0)
class CausalDecoder(SequenceDecoder):
    """A Transformer decoder (Vaswani et al. 2017, arXiv:1706.03762), pre-norm, that reads the memory at every step.

    Each id is predicted from the ids before it and from the memory. The embedding also serves as the output map.

    Args:
        memory: what to read, `LatentMemory` or `WrittenMemory`.
        vocabulary_size: ids are in [0, vocabulary_size).
        channels: width E; None takes that of the memory.
        num_layers: number of layers.
        num_heads: heads of both attentions.
        widening: hidden channels of the feed-forward layer per channel.
        max_length: longest sequence, the start id included.
        start_id: id with which a sequence starts.
        end_id: id after which it ends.
        pad_id: id that fills shorter sequences of a batch.
        dropout: probability of dropping a channel, of the embedded ids and before each residual, in training.
        attention_dropout: probability of dropping an attention weight in training.
        tied_logits: compute logits with the weights of the embedding; else with a separate map.
        approximate_gelu: use the tanh approximation of GELU.
        generation: how predictions are generated, as arguments of `Decoding`; None: greedily.

    Raises:
        ValueError: for numbers that are out of range.

    Examples:
        >>> import torch
        >>> from perceiver.decoders import CausalDecoder, LatentMemory
        >>> decoder = CausalDecoder(memory=LatentMemory(latent_channels=32), vocabulary_size=262, num_layers=2).eval()
        >>> memory = decoder.memory(torch.rand(3, 8, 32), {})
        >>> ids = torch.randint(6, 262, (3, 10))
        >>> decoder(memory, ids).shape
        torch.Size([3, 10, 262])
        >>> first, cache = decoder.step(ids[:, :6], decoder.start(memory))
        >>> rest, cache = decoder.step(ids[:, 6:], cache)
        >>> torch.allclose(torch.cat([first, rest], dim=1), decoder(memory, ids), atol=1e-5)
        True
    """

    output_channels: int

    def __init__(
        self,
        *,
        memory: nn.Module,
        vocabulary_size: int,
        channels: int | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
        widening: int = 2,
        max_length: int = 256,
        start_id: int = 1,
        end_id: int = 2,
        pad_id: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        tied_logits: bool = True,
        approximate_gelu: bool = False,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        width = getattr(memory, "channels", None)
        if not isinstance(width, int):
            raise ValueError(
                f"CausalDecoder.memory: expected a module with an attribute channels, such as LatentMemory; got "
                f"{type(memory).__name__}."
            )
        channels = width if channels is None else channels
        check_at_least_one(
            "CausalDecoder", vocabulary_size=vocabulary_size, channels=channels, num_layers=num_layers, max_length=max_length
        )
        check_dropout("CausalDecoder", dropout=dropout, attention_dropout=attention_dropout)
        special = {"start_id": start_id, "end_id": end_id, "pad_id": pad_id}
        if not all(0 <= number < vocabulary_size for number in special.values()):
            raise ValueError(f"CausalDecoder: expected ids in [0, vocabulary_size = {vocabulary_size}), got {special}.")
        self.decoding = Decoding.of(generation or {}, where="CausalDecoder.generation")
        self.output_channels = vocabulary_size
        self.channels = channels
        self.max_length = max_length
        self.start_id, self.end_id, self.pad_id = start_id, end_id, pad_id
        self.memory = memory
        self.embedding = nn.Embedding(vocabulary_size, channels)
        truncated_normal_(self.embedding.weight, std=channels**-0.5)
        self.position = nn.Parameter(truncated_normal_(torch.empty(max_length, channels), std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            CausalLayer(
                channels=channels,
                memory_channels=width,
                num_heads=num_heads,
                widening=widening,
                dropout=dropout,
                attention_dropout=attention_dropout,
                approximate_gelu=approximate_gelu,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.output = None if tied_logits else lecun_linear(channels, vocabulary_size)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size)) if tied_logits else None

    @overload
    def forward(self, memory: Memory, ids: Tensor, mask: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, memory: Memory, ids: Tensor, mask: Tensor | None = None, *, loss: SequenceLoss | None
    ) -> Tensor | SequenceLosses: ...

    def forward(
        self,
        memory: Memory,
        ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        loss: SequenceLoss | None = None,
    ) -> Float[Tensor, "batch length vocabulary"] | SequenceLosses:
        """Return logits `(B, L, V)` of the id that follows each id.

        Args:
            memory: from `memory`.
            ids: `(B, L)`, each sequence from its start id on.
            mask: `(B, L)`, True where an id is valid; None: all are. Ids that only follow a sequence need no mask, since no
                earlier position sees them.
            loss: return this loss instead of the logits, which are then never in memory as a whole.

        Raises:
            ValueError: for more than `max_length` ids, none, or ids outside the vocabulary.
        """
        x = self.norm(self._run(ids, self.start(memory), mask)[0])
        if loss is None:
            return self.logits(x)
        if self.output is not None:
            return loss(x, self.output.weight, self.output.bias)
        assert self.bias is not None
        return loss(x, self.embedding.weight, self.bias)

    def start(self, memory: Memory) -> Cache:
        """Return the cache before the first id: the memory projected for each layer."""
        blocks = list(memory.blocks.values())
        return Cache(memory=tuple(project(layer.cross_attention, blocks) for layer in self._layers()))

    def step(
        self, ids: Int[Tensor, "batch length"], cache: Cache, mask: Bool[Tensor, "batch length"] | None = None
    ) -> tuple[Float[Tensor, "batch length vocabulary"], Cache]:
        """Return logits `(B, L, V)` of the ids that follow `ids`, and the cache after them; see `forward`.

        Any split of a sequence into steps gives the logits of a single step.
        """
        x, after = self._run(ids, cache, mask)
        return self.logits(self.norm(x)), after

    def logits(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length vocabulary"]:
        """Return the logits of normalised outputs of the last layer."""
        if self.output is not None:
            separate: Tensor = self.output(x)
            return separate
        return nn.functional.linear(x, self.embedding.weight, self.bias)

    def attention_weights(
        self, memory: Memory, ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> list[dict[str, Float[Tensor, "batch heads length *grid"]]]:
        """Return which tokens of the memory each step reads: for each layer, `(B, h, L, *grid)` by block of the memory.

        Row i belongs to the prediction of the id after `ids[:, i]`. Its weights over all blocks sum to 1.
        """
        weights: list[dict[str, Tensor]] = []

        def observe(layer: CausalLayer, x: Tensor, tokens: ProjectedTokens) -> None:
            weights.append(memory.split(read_weights(layer.cross_attention, x, tokens)))

        self._run(ids, self.start(memory), mask, observe=observe)
        return weights

    def _run(
        self,
        ids: Tensor,
        cache: Cache,
        mask: Tensor | None,
        *,
        observe: Callable[[CausalLayer, Tensor, ProjectedTokens], None] | None = None,
    ) -> tuple[Tensor, Cache]:
        """Return the output of the last layer, `(B, L, E)`, and the cache after it.

        Args:
            ids, cache, mask: see `step`.
            observe: gets each layer with its queries and tokens of cross-attention.
        """
        x, mask = self._embedded(ids, cache, mask)
        past = []
        for number, layer in enumerate(self._layers()):
            seen = None if observe is None else partial(observe, layer)
            x, keys = layer(x, cache.memory[number], cache.past[number] if cache.past else None, mask, observe=seen)
            past.append(keys)
        return x, replace(cache, past=tuple(past), mask=mask, length=cache.length + ids.shape[1])

    def _embedded(self, ids: Tensor, cache: Cache, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return embedded ids `(B, L, E)`, and the validity of all ids so far, `(B, S + L)`."""
        length = cache.length + ids.shape[1]
        if ids.ndim != 2 or ids.shape[1] == 0 or length > self.max_length:
            raise ValueError(
                f"CausalDecoder: expected ids (batch, length) of 1 to max_length = {self.max_length} in all, got "
                f"{tuple(ids.shape)} after {cache.length}. Shorten the text, or build the decoder with a larger max_length."
            )
        if mask is None and cache.mask is None:
            places = torch.arange(cache.length, length, device=ids.device)
            whole = None
        else:
            before = self._filled(cache.mask, (ids.shape[0], cache.length), ids.device)
            whole = torch.cat([before, self._filled(mask, (ids.shape[0], ids.shape[1]), ids.device)], dim=1)
            # Padding takes no position, wherever it is.
            places = (whole.cumsum(dim=1) - 1).clamp(min=0)[:, cache.length :]
            ids = torch.where(whole[:, cache.length :], ids, ids.new_tensor(self.pad_id))
        embedded = self.embedding(ids) * self.channels**0.5 + self.position[places]
        return self.dropout(embedded), whole

    @staticmethod
    def _filled(mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
        return torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask

    def _layers(self) -> list[CausalLayer]:
        return [layer for layer in self.layers if isinstance(layer, CausalLayer)]
