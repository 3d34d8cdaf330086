"""Kind of target: a text per sample, generated id by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from perceiver.modalities.tokenizers import END, PAD, START, Tokenizer, tokenizer_of
from perceiver.targets.comparison import Comparison
from perceiver.targets.predictions import TextPrediction


@runtime_checkable
class Sequences(Protocol):
    """Generated sequences; `perceiver.Generated` is such."""

    ids: Tensor
    scores: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class TextTarget:
    """Target with a text per sample; outputs are generated sequences.

    Args:
        tokenizer: text to ids and back.
        max_length: most ids of a text, start and end included.
        truncate: cut longer texts instead of refusing them.
    """

    tokenizer: Tokenizer
    max_length: int
    truncate: bool = False

    def ids(self, text: str, *, where: str) -> Int[Tensor, "length"]:
        """Return the ids of a text, start and end included.

        Raises:
            ValueError: for a text beyond `max_length`, unless it may be cut; `where` names it.
        """
        own = self.tokenizer.encode(text)
        if len(own) > self.max_length - 2 and not self.truncate:
            raise ValueError(
                f"{where}: its text has {len(own)} ids, more than max_length - 2 = {self.max_length - 2}. Raise max_length, "
                "or set truncate = true to cut long texts."
            )
        return torch.tensor([START, *own[: self.max_length - 2], END])

    def predict(self, outputs: Sequences) -> list[TextPrediction]:
        """Return the texts of generated sequences."""
        rows = zip(outputs.ids.tolist(), outputs.lengths.tolist(), outputs.scores.tolist(), strict=True)
        predictions = []
        for ids, length, score in rows:
            own = [number for number in ids[:length] if number not in (PAD, START, END)]
            tokens = [self.tokenizer.decode([number]) for number in own]
            predictions.append(TextPrediction(text=self.tokenizer.decode(own), score=score, tokens=tokens))
        return predictions

    def compare(self, outputs: Sequences, target: Shaped[Tensor, "batch length"]) -> list[Comparison]:
        """Compare with ids `(B, L)`; texts with the lowest probability per id come first."""
        truths = [self.tokenizer.decode(row) for row in target.tolist()]
        return [
            Comparison(predicted=one.text, true=truth, correct=one.text == truth, loss=-one.score / (len(one.tokens) + 1))
            for one, truth in zip(self.predict(outputs), truths, strict=True)
        ]

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> TextTarget:
        """Make the target of a spec's entry."""
        return cls(
            tokenizer=tokenizer_of(target.get("tokenizer")),
            max_length=int(target["max_length"]),
            truncate=bool(target.get("truncate", False)),
        )


def text_target(*, tokenizer: Mapping[str, Any], max_length: int, truncate: bool = False) -> dict[str, Any]:
    """Return the spec's entry `target` for texts.

    Args:
        tokenizer: `{"kind": "bytes"}`, or `{"kind": "pairs", "json": …}`; see `perceiver.modalities.tokenizers`.
        max_length: most ids of a text, start and end included.
        truncate: cut longer texts instead of refusing them.
    """
    return {
        "kind": "text",
        "tokenizer": dict(tokenizer),
        "vocabulary_size": tokenizer_of(tokenizer).vocabulary_size,
        "max_length": max_length,
        "truncate": truncate,
    }


def texts_of(ids: Tensor, tokenizer: Tokenizer) -> Sequence[str]:
    """Return the texts of ids `(B, L)`; special ids are skipped."""
    return [tokenizer.decode(row) for row in ids.tolist()]
