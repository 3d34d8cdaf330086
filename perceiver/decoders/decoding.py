"""Settings of generation, and what they do to the scores of the next id. Names and meanings are those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perceiver.targets.decoding_settings import DecodingSettings


@dataclass(frozen=True, kw_only=True)
class Decoding(DecodingSettings):
    """How to choose the next id, in torch; arguments as `perceiver.targets.decoding_settings.DecodingSettings`.

    Examples:
        >>> from perceiver import Decoding
        >>> Decoding(do_sample=True, top_p=0.9, max_new_tokens=50).most(10, otherwise=0)
        60
    """

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, where: str) -> Decoding:
        """Make the settings from a mapping, such as `{"num_beams": 5}`.

        Raises:
            ValueError: for an unknown setting, which names `where`, or a value out of range.
        """
        known = sorted(cls.__dataclass_fields__)
        if unknown := sorted(str(name) for name in settings if name not in known):
            raise ValueError(f"{where}: expected some of {known}, got {unknown}.")
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"{where}: expected numbers, true or false, got {dict(settings)} ({error}).") from None

    def scores(
        self, scores: Float[Tensor, "rows vocabulary"], ids: Int[Tensor, "rows length"], *, end_id: int
    ) -> Float[Tensor, "rows vocabulary"]:
        """Return scores of the next ids (logits, or log probabilities) after all rules.

        Args:
            scores: scores of the next id.
            ids: ids so far.
            end_id: id that ends a sequence.
        """
        if self.repetition_penalty != 1:
            seen = scores.gather(1, ids)
            penalised = torch.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            scores = scores.scatter(1, ids, penalised)
        if self.no_repeat_ngram_size:
            scores = _without_repeats(scores, ids, self.no_repeat_ngram_size)
        if ids.shape[1] < self.min_length:
            scores = scores.index_fill(1, torch.tensor([end_id], device=scores.device), float("-inf"))
        return self._drawn(scores) if self.do_sample else scores

    def _drawn(self, scores: Tensor) -> Tensor:
        scores = scores / self.temperature
        if self.top_k is not None:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.top_p < 1:
            ordered, places = scores.sort(dim=-1)
            removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
            removed[:, -1] = False
            scores = scores.masked_fill(removed.scatter(1, places, removed), float("-inf"))
        if self.min_p is not None:
            probabilities = scores.softmax(dim=-1)
            scores = scores.masked_fill(probabilities < self.min_p * probabilities.amax(dim=-1, keepdim=True), float("-inf"))
        return scores


def _without_repeats(scores: Tensor, ids: Tensor, size: int) -> Tensor:
    """Exclude the ids that would complete an n-gram which the sequence already has."""
    length = ids.shape[1]
    if length + 1 < size:
        return scores
    windows = ids.unfold(1, size, 1) if length >= size else ids.new_zeros(ids.shape[0], 0, size)
    last = ids[:, length + 1 - size :]
    matches = (windows[:, :, :-1] == last[:, None]).all(dim=-1)
    counts = torch.zeros_like(scores).scatter_add(1, windows[:, :, -1], matches.to(scores.dtype))
    return scores.masked_fill(counts > 0, float("-inf"))
