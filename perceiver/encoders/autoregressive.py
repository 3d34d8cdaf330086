"""Autoregressive encoder: the latents are the last positions of a sequence, each of which sees only what comes before it.

Perceiver AR (Hawthorne et al. 2022, arXiv:2202.07765).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from perceiver.attention import CrossAttend, Form
from perceiver.attention.causal import PastKeys
from perceiver.attention.causal_cross import attend_causally, causal_weights, read_causally
from perceiver.attention.layers import CausalSelfAttend
from perceiver.attention.projected import ProjectedTokens, project
from perceiver.attention.projection import lecun_linear
from perceiver.runtime.ranges import check_at_least_one, check_dropout
from perceiver.runtime.regularising import regularising
from perceiver.tokens.masks import extents
from perceiver.tokens.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class EncoderCache:
    """What the encoder keeps between the steps of a sequence; plain tensors, never state of the module.

    Args:
        prefix: keys and values of the tokens before the latents, which do not change; None: no such tokens.
        tail: keys and values of the tokens of the latents.
        past: keys and values of the latents, one per layer.
        mask: `(B, N)`, True where a latent is valid; None: all are.
        length: N, the number of latents so far.
    """

    prefix: ProjectedTokens | None
    tail: ProjectedTokens
    past: tuple[PastKeys, ...]
    mask: Tensor | None
    length: int

    def reorder(self, index: Int[Tensor, "rows"]) -> EncoderCache:
        """Return the rows `index`, in this order."""
        return replace(
            self,
            prefix=None if self.prefix is None else self.prefix.reorder(index),
            tail=self.tail.reorder(index),
            past=tuple(keys.reorder(index) for keys in self.past),
            mask=None if self.mask is None else self.mask[index],
        )


@regularising(dropout=0.0, prefix_dropout=0.0)
class AutoregressiveEncoder(nn.Module):
    """Perceiver AR: one causal cross-attend from the last positions of a sequence to all, then causal self-attention.

    The sequence of M tokens has a prefix, which only the cross-attend reads, and a tail of the last `num_latents` tokens
    (all of them in a shorter sequence), which become the latents. Latent i depends on the tokens up to its own, so it can
    predict the next. Cost grows with M times N, not with the square of M.

    Sequences of different lengths in a batch end at the last position: the latents of a sample are the last positions
    before its padding. Latents of a sample with fewer tokens than latents come last; those before them are meaningless.

    Args:
        token_channels: C, width of the tokens.
        num_latents: N, the most positions with a latent.
        latent_channels: D.
        num_layers: causal self-attention layers.
        num_cross_heads: heads of the cross-attention.
        num_self_heads: heads of the self-attention.
        cross_widening: hidden channels of the feed-forward layer after cross-attention, per channel.
        self_widening: the same after self-attention.
        rotary: positions of the self-attention are relative; see `CausalSelfAttention`.
        dropout: probability of dropping a channel before each residual in training.
        prefix_dropout: share of the tokens of the prefix that are left out in training, the same in all samples of a batch:
            less overfitting, and less to compute. The paper drops them, too.
        approximate_gelu: see `FeedForward`.
        attention: form of cross-attention: `auto`, `factored` or `dense`. All compute the same function.

    Examples:
        >>> import torch
        >>> from perceiver import AutoregressiveEncoder, Tokens
        >>> encoder = AutoregressiveEncoder(token_channels=20, num_latents=16, latent_channels=64, num_layers=2).eval()
        >>> content, position = torch.rand(3, 100, 12), torch.rand(1, 100, 8)
        >>> latents = encoder([Tokens(parts=(content, position))])
        >>> latents.shape
        torch.Size([3, 16, 64])
        >>> first, cache = encoder.start(Tokens(parts=(content[:, :90], position[:, :90])), num_latents=6)
        >>> rest, cache = encoder.step(Tokens(parts=(content[:, 90:], position[:, 90:])), cache)
        >>> torch.allclose(torch.cat([first, rest], dim=1), latents, atol=1e-5)
        True
    """

    num_cross_attends = 1

    def __init__(
        self,
        *,
        token_channels: int,
        num_latents: int,
        latent_channels: int,
        num_layers: int = 6,
        num_cross_heads: int = 1,
        num_self_heads: int = 8,
        cross_widening: int = 1,
        self_widening: int = 1,
        rotary: bool = True,
        dropout: float = 0.0,
        prefix_dropout: float = 0.0,
        approximate_gelu: bool = False,
        attention: Form = "auto",
    ) -> None:
        super().__init__()
        check_at_least_one(
            "AutoregressiveEncoder",
            token_channels=token_channels,
            num_latents=num_latents,
            latent_channels=latent_channels,
            num_layers=num_layers,
        )
        check_dropout("AutoregressiveEncoder", dropout=dropout, prefix_dropout=prefix_dropout)
        self.token_channels = token_channels
        self.num_latents = num_latents
        self.latent_channels = latent_channels
        self.prefix_dropout = prefix_dropout
        self.latents = lecun_linear(token_channels, latent_channels)
        self.cross_attend = CrossAttend(
            query_channels=latent_channels,
            token_channels=token_channels,
            num_heads=num_cross_heads,
            qk_channels=latent_channels,
            widening=cross_widening,
            dropout=dropout,
            approximate_gelu=approximate_gelu,
            attention=attention,
        )
        self.layers = nn.ModuleList(
            CausalSelfAttend(
                channels=latent_channels,
                num_heads=num_self_heads,
                widening=self_widening,
                rotary=rotary,
                dropout=dropout,
                approximate_gelu=approximate_gelu,
            )
            for _ in range(num_layers)
        )

    def forward(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> Float[Tensor, "batch latents channels"]:
        """Encode a sequence to the latents `(B, min(N, M), D)` of its last positions.

        Args:
            tokens: the block of the only modality, on a one-axis grid.
            reads: None; there is nothing to choose from.

        Raises:
            ValueError: for several blocks, or another grid.
        """
        prefix, tail = self._parts(self._only(tokens, reads), self.num_latents)
        if prefix is not None and self.training and self.prefix_dropout:
            kept = round(prefix.num_tokens * (1 - self.prefix_dropout))
            prefix = prefix.take(torch.randperm(prefix.num_tokens, device=prefix.device)[:kept]) if kept else None
        queries = self._queries(tail)
        read = attend_causally(self.cross_attend.attention, queries, [] if prefix is None else [prefix], tail)
        return self._processed(queries, read, (), tail.dense_mask())[0]

    def start(self, tokens: Tokens, *, num_latents: int) -> tuple[Float[Tensor, "batch latents channels"], EncoderCache]:
        """Encode a sequence with this many latents, as far as it has tokens; return them and the cache for `step`."""
        prefix, tail = self._parts(self._only([tokens], None), num_latents)
        attention, queries = self.cross_attend.attention, self._queries(tail)
        before = None if prefix is None else project(attention, [prefix])
        own = project(attention, [tail])
        read = read_causally(attention, queries, [own] if before is None else [before, own])
        latents, past = self._processed(queries, read, (), own.mask)
        return latents, EncoderCache(prefix=before, tail=own, past=past, mask=own.mask, length=tail.num_tokens)

    def step(self, tokens: Tokens, cache: EncoderCache) -> tuple[Float[Tensor, "batch length channels"], EncoderCache]:
        """Return the latents `(B, L, D)` of the L tokens after those in the cache, and the cache after them.

        Any split of a sequence into steps gives the latents of a single call. The number of latents is not limited here: a
        model has not learned to use more than `num_latents`.
        """
        attention, queries = self.cross_attend.attention, self._queries(tokens)
        tail = cache.tail.followed_by(project(attention, [tokens]))
        read = read_causally(attention, queries, [tail] if cache.prefix is None else [cache.prefix, tail])
        latents, past = self._processed(queries, read, cache.past, tail.mask)
        length = cache.length + tokens.num_tokens
        return latents, replace(cache, tail=tail, past=past, mask=tail.mask, length=length)

    def attention_weights(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Float[Tensor, "batch heads latents tokens"], ...]]:
        """Return the attention weights of the cross-attend, `(B, h, min(N, M), M)`, as `Encoder.attention_weights` does."""
        block = self._only(tokens, reads)
        prefix, tail = self._parts(block, self.num_latents)
        attention = self.cross_attend.attention
        blocks = [tail] if prefix is None else [prefix, tail]
        weights = causal_weights(attention, self._queries(tail), project(attention, blocks))
        if block.mask is not None:
            # Back from the common end to the common beginning of the samples.
            index = _from_the_end(block)[:, None, None]
            shifted = torch.zeros_like(weights).scatter(-1, index.clamp(min=0).expand_as(weights), 0.0)
            weights = shifted.scatter_add(-1, index.clamp(min=0).expand_as(weights), torch.where(index >= 0, weights, 0.0))
        return [(weights,)]

    def attention_by_block(
        self, tokens: Sequence[Tokens], reads: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Float[Tensor, "batch"], ...]]:
        """Return the share of the latents' attention that the only block gets, as `Encoder.attention_by_block` does."""
        block = self._only(tokens, reads)
        valid = torch.ones(block.batch, dtype=torch.bool, device=block.device)
        mask = block.dense_mask()
        return [((valid if mask is None else mask.any(dim=1)).float(),)]

    def explain_attention(self, tokens: Sequence[Tokens]) -> str:
        """Describe the form and implementation of cross-attention for these tokens, and the reason, briefly for tables."""
        queries = min(self.num_latents, tokens[0].num_tokens)
        return self.cross_attend.attention.explain(tokens, num_queries=queries)

    def _only(self, tokens: Sequence[Tokens], reads: Any) -> Tokens:
        if len(tokens) != 1 or len(tokens[0].grid) != 1 or reads is not None:
            raise ValueError(
                "AutoregressiveEncoder: expected the tokens of one modality on a one-axis grid, such as a text; got the "
                f"grids {[block.grid for block in tokens]}. For other inputs, generate text with a CausalDecoder."
            )
        return tokens[0]

    def _parts(self, block: Tokens, num_latents: int) -> tuple[Tokens | None, Tokens]:
        """Return the tokens before the last `num_latents`, if there are any, and these; samples end together."""
        if block.mask is not None:
            index = _from_the_end(block)
            taken = block.take(index.clamp(min=0))
            assert taken.mask is not None
            block = Tokens(parts=taken.parts, mask=taken.mask & (index >= 0))
        cut = max(0, block.num_tokens - num_latents)
        tail = _slice(block, cut, block.num_tokens)
        return (_slice(block, 0, cut) if cut else None), tail

    def _queries(self, tail: Tokens) -> Tensor:
        dtype = self.latents.weight.dtype
        # The sum of residuals keeps the precision of the weights, autocast or not.
        queries: Tensor = self.latents(tail.dense().to(dtype)).to(dtype)
        return queries

    def _processed(
        self, queries: Tensor, read: Tensor, past: tuple[PastKeys, ...], mask: Tensor | None
    ) -> tuple[Tensor, tuple[PastKeys, ...]]:
        """Apply all that follows the cross-attention."""
        layer = self.cross_attend
        x = queries + layer.dropout(read)
        x = x + layer.dropout(layer.feed_forward(x))
        after = []
        for number, one in enumerate(self.layers):
            x, keys = one(x, past[number] if past else None, mask)
            after.append(keys)
        return x, tuple(after)


def _from_the_end(block: Tokens) -> Int[Tensor, "batch tokens"]:
    """Return which token of each sample comes to each place if all samples end at the last; negative: none."""
    assert block.mask is not None
    places = torch.arange(block.num_tokens, device=block.device)
    mask = block.mask.expand(block.batch, block.num_tokens)
    return extents(mask)[0][:, None] - block.num_tokens + places


def _slice(block: Tokens, start: int, stop: int) -> Tokens:
    """Return the tokens from `start` to before `stop` of a one-axis grid; parts that all tokens share stay shared."""
    parts = tuple(part if part.shape[1] == 1 else part[:, start:stop] for part in block.parts)
    mask = None if block.mask is None else block.mask[:, start:stop]
    if stop - start > 1 and all(part.shape[1] == 1 for part in parts):
        parts = (parts[0].expand(-1, stop - start, -1), *parts[1:])
    return Tokens(parts=parts, mask=mask)
