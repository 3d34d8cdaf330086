"""Which form of cross-attention is cheaper: a small cost model of shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from perceiver.tokens import Tokens

# In multiply-adds of a matrix product, from timings of the eager form on CPUs: what one score costs in passes over memory
# (exponential, maximum, sums, products with rstd), and what one channel of a dense token does (concatenate, normalise).
SCORE_COST = 60
CHANNEL_COST = 60


def factored_is_cheaper(
    blocks: Sequence[Tokens], *, num_queries: int, num_heads: int, qk_channels: int, v_channels: int
) -> bool:
    """Whether the factored form needs less time than the dense one for these tokens, per sample.

    Dense pays for keys and values of every token, N * (qk + v) products per token, and for the dense array itself; factored
    pays per head, query and token for the channels of full-size parts only, and the passes over the scores.
    """
    dense = factored = 0.0
    for block in blocks:
        tokens, channels = block.num_tokens, block.channels
        dense += tokens * ((channels + num_queries) * (qk_channels + v_channels) + CHANNEL_COST * channels)
        full = sum(part.shape[-1] for part in block.parts if prod(part.shape[1:-1]) == tokens)
        factored += num_heads * num_queries * tokens * (SCORE_COST + 2 * full)
    return factored < dense
