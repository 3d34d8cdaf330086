"""Settings of generation, shared by models and exported files. Names and meanings are those of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
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

    @property
    def power_of_scores(self) -> float:
        """The power of the number of generated ids by which scores are divided: 0 without beams, whose scores are sums."""
        return self.length_penalty if self.num_beams > 1 else 0.0

    def most(self, prompt: int, *, otherwise: int) -> int:
        """Return the most ids of a sequence that begins with `prompt` ids, or `otherwise` if no limit is set."""
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        return otherwise if self.max_length is None else self.max_length
