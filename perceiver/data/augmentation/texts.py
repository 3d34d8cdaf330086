"""Augmentation of batches of texts, with separate random parameters for every text.

Each transform takes ids `(B, L)` and their mask `(B, L)` (True is valid) or None, and returns the same.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from perceiver.modalities.texts.text_bytes import NUM_SPECIAL

Ids = Int[Tensor, "batch length"]
Mask = Bool[Tensor, "batch *length"] | None

_WHITESPACE = tuple(byte + NUM_SPECIAL for byte in b" \t\n\r")


class RandomWordDropout(nn.Module):
    """Drop words of every text; at least one remains (word dropout: Iyyer et al. 2015, section 3).

    The remaining ids are packed, so that a text equals one that was written without these words.

    Args:
        rate: (smallest, largest) probability of dropping a word, uniformly distributed over texts.
        separators: ids between words, which stay: by default those of white space in UTF-8 bytes. None: every id is a word,
            as with a tokenizer.
        kept: ids that stay, such as those that a tokenizer puts at the beginning and the end.
    """

    def __init__(
        self,
        *,
        rate: Sequence[float],
        separators: Sequence[int] | None = _WHITESPACE,
        kept: Sequence[int] = tuple(range(NUM_SPECIAL)),
    ) -> None:
        super().__init__()
        if len(rate) != 2 or not 0 <= rate[0] <= rate[1] <= 1:
            raise ValueError(f"RandomWordDropout.rate: expected 0 <= smallest <= largest <= 1, got {list(rate)}.")
        self.rate = (float(rate[0]), float(rate[1]))
        self.separators = None if separators is None else tuple(separators)
        self.kept = tuple(kept)

    def forward(self, ids: Ids, mask: Mask) -> tuple[Int[Tensor, "batch shorter"], Bool[Tensor, "batch shorter"]]:
        """Transform `(B, L)` to texts of the new maximum length, and a mask; absent texts stay absent."""
        batch, length = ids.shape
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        valid = valid if valid.ndim == 2 else valid[:, None].expand(batch, length)
        stays = _among(ids, self.kept)
        if self.separators is None:
            number = torch.arange(length, device=ids.device).expand(batch, length)
        else:
            between = _among(ids, self.separators)
            stays = stays | between
            number = between.cumsum(dim=1)  # a word has one more than the word before it
        droppable = valid & ~stays
        draw = torch.rand(batch, length + 1, device=ids.device).gather(1, number)
        draw = torch.where(droppable, draw, draw.new_full((), -1.0))
        low, high = self.rate
        rate = low + (high - low) * torch.rand(batch, 1, device=ids.device)
        # The word with the largest random number remains at any rate.
        kept = (~droppable | (draw >= rate) | (draw == draw.amax(dim=1, keepdim=True))) & valid
        width = max(1, int(kept.sum(dim=1).max()))
        order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        return ids.gather(1, order), kept.gather(1, order)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, separators={self.separators}, kept={self.kept}"


def _among(ids: Tensor, chosen: Sequence[int]) -> Bool[Tensor, "batch length"]:
    return torch.isin(ids, torch.tensor(chosen, dtype=ids.dtype, device=ids.device))
