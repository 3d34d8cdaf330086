"""Local context of ids: what the ids before an id add to its embedding, before any attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_at_least_one, check_positive


class LocalContext(nn.Module):
    """Adds to the embedding of each id those of the n-grams that end with it, and a causal convolution.

    A byte alone carries little: attention would first have to learn to collect its neighbours. An n-gram is hashed to a row
    of a table (as the n-grams of bytes in Pagnoni et al. 2024, arXiv:2412.09871, section 3.2.1), which different n-grams may
    share. The convolution sees the n-grams of the last `width` positions, so a token holds both an id and what preceded it:
    attention finds the places where the same context occurred before.

    Args:
        channels: width of the embedding.
        ngrams: sizes n of the n-grams, each from 2 to 16; empty: none.
        num_buckets: rows of the table for each size.
        width: positions that the convolution sees, the id's own included.
        preceding: append the embedding and the n-grams of the id before each, unmixed. A query that holds the last n-grams
            then finds by an inner product where they occurred before, and reads what followed: what an induction head
            (Olsson et al. 2022, arXiv:2209.11895) takes two layers for.
        std: standard deviation of the initial rows of the table, truncated at two.

    Attributes:
        output_channels: width of the result, twice `channels` with `preceding`.
        reach: number of earlier ids on which the result for an id depends.

    Examples:
        >>> import torch
        >>> from perceiver.adapters import LocalContext
        >>> local = LocalContext(channels=16, ngrams=[2, 3], num_buckets=1000, width=4)
        >>> local.reach
        5
        >>> local(torch.rand(2, 10, 16), torch.randint(6, 262, (2, 10))).shape
        torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        *,
        channels: int,
        ngrams: Sequence[int] = (),
        num_buckets: int = 8192,
        width: int = 4,
        preceding: bool = False,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least_one("LocalContext", channels=channels, num_buckets=num_buckets, width=width)
        check_positive("LocalContext", std=std)
        if any(not 2 <= size <= 16 for size in ngrams):
            raise ValueError(f"LocalContext.ngrams: expected sizes from 2 to 16, got {list(ngrams)}.")
        self.ngrams = tuple(sorted(ngrams))
        self.num_buckets = num_buckets
        self.width = width
        self.preceding = preceding
        self.output_channels = 2 * channels if preceding else channels
        self.reach = max(width - 1, int(preceding)) + max(self.ngrams, default=1) - 1
        self.table = nn.Embedding(len(self.ngrams) * num_buckets, channels) if self.ngrams else None
        if self.table is not None:
            truncated_normal_(self.table.weight, std=std)
        self.norm = nn.LayerNorm(channels)
        self.convolution = nn.Conv1d(channels, channels, width)
        self.output = nn.Linear(channels, channels)

    def forward(
        self,
        embedded: Float[Tensor, "batch length channels"],
        ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length output_channels"]:
        """Return the embeddings with what precedes each id; nothing precedes the first.

        Args:
            embedded: embeddings of the ids.
            ids: `(B, L)`; masked ids are 0.
            mask: `(B, L)`, True where an id is valid; masked ids count as absent. None: all are valid.
        """
        x = embedded
        if self.table is not None:
            x = x + self.table(self._buckets(ids)).sum(dim=2)
        normed = self.norm(x)
        if mask is not None:
            normed = torch.where(mask[..., None], normed, normed.new_zeros(()))
        mixed = self.convolution(F.pad(normed.transpose(1, 2), (self.width - 1, 0))).transpose(1, 2)
        out: Tensor = x + self.output(F.gelu(mixed))
        if not self.preceding:
            return out
        valid = x if mask is None else torch.where(mask[..., None], x, x.new_zeros(()))
        return torch.cat([out, F.pad(valid, (0, 0, 1, 0))[:, :-1]], dim=-1)

    def _buckets(self, ids: Tensor) -> Int[Tensor, "batch length ngrams"]:
        """Return the rows of the n-grams that end at each id; before the first id there are zeros."""
        length = ids.shape[1]
        hashed = ids.to(torch.int64) + 1
        rows: list[Tensor] = []
        for size in range(2, max(self.ngrams) + 1):
            earlier = F.pad(ids.to(torch.int64), (size - 1, 0))[:, :length]
            hashed = hashed * _MULTIPLIER + earlier + 1  # wraps around
            if size in self.ngrams:
                rows.append((hashed ^ (hashed >> 29)).remainder(self.num_buckets) + len(rows) * self.num_buckets)
        return torch.stack(rows, dim=-1)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"ngrams={list(self.ngrams)}, num_buckets={self.num_buckets}, width={self.width}, preceding={self.preceding}"


_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""The golden ratio in 64 bits, as a signed number: Knuth's multiplicative hashing (The Art of Computer Programming, 6.4)."""
