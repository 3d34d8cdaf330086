"""Settings of generation, and what they do to the scores of the next id. Names and meanings are those of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to choose the next id.

    Args:
        max_length: most ids of a sequence, those of the prompt included; None: what the decoder allows.
        max_new_tokens: most ids after the prompt; it takes the place of `max_length`. None: no such limit.
        min_length: fewest ids, those of the prompt included; the end id is not chosen before.
        num_beams: sequences to keep at each step; 1: no beam search.
        do_sample: draw ids from their probabilities instead of taking the most probable one.
        temperature: divides the logits before drawing.
        top_k: draw from the k most probable ids only; None: from all.
        top_p: draw from the fewest ids whose probabilities sum to at least this.
        min_p: draw from ids at least this times as probable as the most probable one; None: from all.
        repetition_penalty: divides positive scores of ids that occur in the sequence, multiplies negative ones.
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0: no such rule.
        length_penalty: beams are compared by their sum of log probabilities divided by length to this power.
        early_stopping: end beam search as soon as there are `num_beams` finished sequences (True), when better ones are
            unlikely (False), or only when none can be better ("never").
        num_return_sequences: sequences to return for each sample.

    Raises:
        ValueError: for a value out of range, or settings that contradict each other.

    Examples:
        >>> from perceiver import Decoding
        >>> Decoding(do_sample=True, top_p=0.9, max_new_tokens=50).most(10, otherwise=0)
        60
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        for name, least in (("min_length", 0), ("num_beams", 1), ("no_repeat_ngram_size", 0), ("num_return_sequences", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}.")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length: expected at least 1, or None, got {self.max_length}.")
        if self.max_new_tokens is not None and (self.max_new_tokens < 1 or self.max_length is not None):
            raise ValueError(
                f"max_new_tokens: expected at least 1 and no max_length, or None; got {self.max_new_tokens} and "
                f"max_length = {self.max_length}."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, or None, got {self.top_k}.")
        for name in ("temperature", "repetition_penalty"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}: expected a finite number above 0, got {getattr(self, name)}.")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty: expected a finite number, got {self.length_penalty}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a probability above 0 and at most 1, got {self.top_p}.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: expected a probability of 0 to 1, or None, got {self.min_p}.")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping: expected true, false or never, got {self.early_stopping!r}.")
        draws = self.temperature != 1 or self.top_k is not None or self.top_p != 1 or self.min_p is not None
        if draws and not self.do_sample:
            raise ValueError("temperature, top_k, top_p, min_p: they have an effect only with do_sample = true; set it.")
        if self.num_return_sequences > self.num_beams and not self.do_sample:
            raise ValueError(
                f"num_return_sequences: expected at most num_beams = {self.num_beams} without do_sample, since all would be "
                f"the same; got {self.num_return_sequences}."
            )
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample: expected false for beam search; set num_beams = 1 to sample.")

    def most(self, prompt: int, *, otherwise: int) -> int:
        """Return the most ids of a sequence that begins with `prompt` ids, or `otherwise` if no limit is set."""
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        return otherwise if self.max_length is None else self.max_length

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
