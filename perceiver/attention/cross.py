"""Cross-attention from queries (latents, or output queries) to `Tokens` (inputs, or latents)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.forms import cost_model as choice
from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.cost_model import Shapes, cheapest_form, precision_of_products
from perceiver.attention.forms.dense import dense_attention, dense_weights
from perceiver.attention.forms.factored import common_dtype, factored_attention, factored_shares
from perceiver.attention.kernels.dispatch import Implementation, implementation
from perceiver.attention.projection import (
    TokenProjection,
    check_heads,
    lecun_linear,
    merge_heads,
    split_heads,
)
from perceiver.runtime.ranges import check_dropout
from perceiver.tokens.tokens import Tokens

Form = Literal["auto", "factored", "dense"]


class CrossAttention(nn.Module):
    """Cross-attention with a single softmax over all valid tokens of all blocks.

    Pre-LayerNorm on both sides, linear queries, keys and values, softmax, output projection (Perceiver IO, appendix E.2). A
    query that finds no valid token reads zeros before the output projection.

    Args:
        query_channels: E, width of the queries and of the output.
        token_channels: C, width of the tokens.
        num_heads: attention heads.
        qk_channels: width of queries and keys, all heads together; None takes `token_channels`, as the papers do.
        v_channels: width of the values, all heads together; None takes `qk_channels`.
        dropout: probability of dropping an attention weight in training.
        attention: `auto` takes the cheapest form (see `forms/cost_model.py`); `factored` and `dense` force that form. All
            compute the same function.

    Examples:
        >>> import torch
        >>> from perceiver import CrossAttention, Tokens
        >>> attend = CrossAttention(query_channels=32, token_channels=12, num_heads=2, qk_channels=16)
        >>> blocks = [Tokens(parts=(torch.rand(3, 8, 8, 10), torch.rand(1, 8, 1, 2)))]
        >>> attend(torch.rand(1, 5, 32), blocks).shape
        torch.Size([3, 5, 32])
    """

    def __init__(
        self,
        *,
        query_channels: int,
        token_channels: int,
        num_heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        dropout: float = 0.0,
        attention: Form = "auto",
    ) -> None:
        super().__init__()
        qk_channels = token_channels if qk_channels is None else qk_channels
        v_channels = qk_channels if v_channels is None else v_channels
        check_heads("CrossAttention", num_heads, qk_channels=qk_channels, v_channels=v_channels)
        check_dropout("CrossAttention", dropout=dropout)
        if attention not in get_args(Form):
            raise ValueError(f"attention: expected one of {', '.join(get_args(Form))}; got {attention!r}.")
        self.token_channels = token_channels
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention = attention
        self.query_norm = nn.LayerNorm(query_channels)
        self.query = lecun_linear(query_channels, qk_channels)
        self.tokens = TokenProjection(token_channels=token_channels, qk_channels=qk_channels, v_channels=v_channels)
        self.output = lecun_linear(v_channels, query_channels)

    def forward(
        self, queries: Float[Tensor, "batch_or_1 queries channels"], blocks: Sequence[Tokens]
    ) -> Float[Tensor, "batch queries channels"]:
        """Attend from queries `(B or 1, N, E)` to at least one block of tokens -> `(B, N, E)`.

        Raises:
            ValueError: if there is no block, or a block's width differs from `token_channels`.
        """
        query = self._query(queries, blocks)
        dropout = self.dropout if self.training else 0.0
        form = self.form(blocks, num_queries=queries.shape[1])
        if form == "factored":
            read = factored_attention(query, blocks, self.tokens, dropout=dropout)
        elif form == "absorbed":
            read = absorbed_attention(query, blocks, self.tokens)
        else:
            read = dense_attention(query, blocks, self.tokens, dropout=dropout)
        out: Tensor = self.output(merge_heads(read).to(queries.dtype))
        return out

    def form(self, blocks: Sequence[Tokens], *, num_queries: int) -> choice.Form:
        """Return the form used for these tokens: the forced form, or the cheapest according to `forms/cost_model.py`.

        `auto` may also take `absorbed`, SDPA with absorbed projections, which has no attention dropout.
        """
        if self.attention != "auto":
            return self.attention
        shapes = Shapes(
            blocks=blocks,
            num_queries=num_queries,
            num_heads=self.num_heads,
            qk_channels=self.query.out_features,
            v_channels=self.output.in_features,
            training=torch.is_grad_enabled() and self.training,
            products=precision_of_products(blocks[0].device, self.query.weight.dtype),
        )
        if self._drops():
            return cheapest_form(shapes, implementation="eager", forms=("dense", "factored"))
        return cheapest_form(shapes, implementation=self._implementation(blocks).name)

    def explain(self, blocks: Sequence[Tokens], *, num_queries: int) -> str:
        """Describe the form and implementation used for these tokens, and the reason, in a few words for tables."""
        form = self.form(blocks, num_queries=num_queries)
        why = "the cheapest form for these shapes" if self.attention == "auto" else "as configured"
        if form == "dense":
            return f"dense, {why}; scaled_dot_product_attention"
        if form == "absorbed":
            return f"absorbed, {why}; scaled_dot_product_attention of the tokens themselves"
        if self._drops():
            return f"factored, {why}; eager code (the only implementation with attention dropout)"
        chosen = self._implementation(blocks)
        return f"factored, {why}; {chosen.name} code ({chosen.reason})"

    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _implementation(self, blocks: Sequence[Tokens]) -> Implementation:
        """Return the implementation that `factored_attention` would use."""
        return implementation(blocks[0].device, common_dtype(self.query.weight.dtype, blocks))

    def weights(
        self, queries: Float[Tensor, "batch_or_1 queries channels"], blocks: Sequence[Tokens]
    ) -> tuple[Float[Tensor, "batch heads queries *grid"], ...]:
        """Return the attention weights, `(B, h, N, *grid)` per block. A query's weights over all blocks sum to 1."""
        return dense_weights(self._query(queries, blocks), blocks, self.tokens)

    def shares(
        self, queries: Float[Tensor, "batch_or_1 queries channels"], blocks: Sequence[Tokens]
    ) -> tuple[Float[Tensor, "batch heads queries"], ...]:
        """Return each block's share of each query's attention, `(B, h, N)` per block, without computing `weights`."""
        return factored_shares(self._query(queries, blocks), blocks, self.tokens)

    def _query(self, queries: Tensor, blocks: Sequence[Tokens]) -> Tensor:
        self.check_blocks(blocks)
        return split_heads(self.query(self.query_norm(queries)), self.num_heads)

    def check_blocks(self, blocks: Sequence[Tokens]) -> None:
        """Raise ValueError if there is no block, or a block's width differs from `token_channels`."""
        if not blocks:
            raise ValueError("CrossAttention: expected at least one block of tokens, got an empty sequence.")
        for block in blocks:
            if block.channels != self.token_channels:
                raise ValueError(
                    f"CrossAttention: expected tokens of {self.token_channels} channels, got {block.channels} (parts "
                    f"{[tuple(part.shape) for part in block.parts]}). Was the model built for these adapters?"
                )
