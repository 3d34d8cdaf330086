"""Kind of target: a text per sample, generated id by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from perceiver.modalities.texts.tokenizers import END, PAD, START, ByteTokenizer, Tokenizer, tokenizer_of
from perceiver.samples.batch import Batch
from perceiver.targets.alignment import Alignment, alignment_of
from perceiver.targets.comparison import Comparison
from perceiver.targets.predictions import TextPrediction
from perceiver.targets.words import Word, words_of


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
        setting, cutting: names of the settings of `max_length` and `truncate`, for messages.
    """

    tokenizer: Tokenizer
    max_length: int
    truncate: bool = False
    setting: str = "data.max_length"
    cutting: str = "data.truncate"

    def ids(self, text: str, *, where: str) -> Int[Tensor, "length"]:
        """Return the ids of a text, start and end included.

        Raises:
            ValueError: for a text that is empty, has no character that the tokenizer knows, or is longer than `max_length`,
                unless it may be cut; `where` names it.
        """
        return self.encoded(text, where=where)[0]

    def encoded(self, text: str, *, where: str) -> tuple[Int[Tensor, "length"], bool]:
        """Return `ids`, and whether the text was cut."""
        own = self.tokenizer.encode(text)
        if not own or all(number in self.tokenizer.unknown for number in own):
            what = f"has no character that the tokenizer knows: {text!r:.60}" if text.strip() else "is empty"
            raise ValueError(f"{where}: its target text {what}. Leave the sample out, or mend its text.")
        if len(own) > self.max_length - 2 and not self.truncate:
            raise ValueError(
                f"{where}: its target text has {len(own)} ids, and 2 for start and end, more than {self.setting} = "
                f"{self.max_length}. Raise {self.setting}, or set {self.cutting}=true to cut long texts."
            )
        return torch.tensor([START, *own[: self.max_length - 2], END]), len(own) > self.max_length - 2

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
        # Scores of beams are divided by a power of the length already.
        power = 1 - float(getattr(outputs, "length_penalty", 0.0))
        return [
            Comparison(
                predicted=one.text,
                true=truth,
                correct=one.text == truth,
                loss=-one.score / (len(one.tokens) + 1) ** power,
            )
            for one, truth in zip(self.predict(outputs), truths, strict=True)
        ]

    @classmethod
    def of(
        cls, target: Mapping[str, Any], *, setting: str = "data.max_length", cutting: str = "data.truncate"
    ) -> TextTarget:
        """Make the target of a spec's entry."""
        return cls(
            setting=setting,
            cutting=cutting,
            tokenizer=tokenizer_of(target.get("tokenizer")),
            max_length=int(target["max_length"]),
            truncate=bool(target.get("truncate", False)),
        )


def with_alignments(
    predictions: Sequence[Any], outputs: Any, *, target: Any, batch: Batch, modalities: Mapping[str, Mapping[str, Any]]
) -> list[Any]:
    """Add alignments to predictions of texts if the outputs have maps over the inputs; return others unchanged.

    Args:
        predictions: predictions for B samples.
        outputs: generated sequences that they are made of.
        target: target that made them.
        batch: inputs of the B samples.
        modalities: spec of each modality.
    """
    maps: Mapping[str, Tensor] | None = getattr(outputs, "maps", None)
    if maps is None or not isinstance(target, TextTarget):
        return list(predictions)
    return [
        replace(one, alignment=_alignment(row, outputs, maps, target=target, batch=batch, modalities=modalities))
        for row, one in enumerate(predictions)
    ]


def _alignment(
    row: int,
    outputs: Sequences,
    maps: Mapping[str, Tensor],
    *,
    target: TextTarget,
    batch: Batch,
    modalities: Mapping[str, Mapping[str, Any]],
) -> Alignment:
    length = int(outputs.lengths[row])
    words = words_of(target.tokenizer.pieces(outputs.ids[row, 1:length].tolist()))
    weights: dict[str, NDArray[Any]] = {}
    sources: dict[str, tuple[Word, ...]] = {}
    for name, values in maps.items():
        mask, given = batch.masks.get(name), batch.inputs[name]
        if mask is not None and not bool(mask[row].any()):
            continue
        own = values[row, : length - 1].float().cpu()
        spec = modalities.get(name, {})
        if spec.get("kind") == "text" and isinstance(given, Tensor) and own.shape[1:] == given.shape[1:]:
            ids = given[row] if mask is None or mask.ndim == 1 else given[row][mask[row]]
            own = own[:, : len(ids)]
            if "tokenizer" in spec or spec.get("vocabulary_size") == ByteTokenizer.vocabulary_size:
                sources[name] = tuple(words_of(tokenizer_of(spec.get("tokenizer")).pieces(ids.tolist())))
        weights[name] = own.numpy()
    return alignment_of(tuple(words), weights, sources)


def text_target(
    *,
    tokenizer: Mapping[str, Any],
    max_length: int,
    truncate: bool = False,
    dictionary: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the spec's entry `target` for texts.

    Args:
        tokenizer: `{"kind": "bytes"}`, or `{"kind": "pairs", "json": …}`; see `perceiver.modalities.texts.tokenizers`.
        max_length: most ids of a text, start and end included.
        truncate: cut longer texts instead of refusing them.
        dictionary: `{"modality": NAME, "pairs": [[word, translation], …]}`, to measure alignment with; see
            `perceiver.targets.dictionary`.
    """
    learned = {} if dictionary is None else {"dictionary": dict(dictionary)}
    return {
        "kind": "text",
        "tokenizer": dict(tokenizer),
        "vocabulary_size": tokenizer_of(tokenizer).vocabulary_size,
        "max_length": max_length,
        "truncate": truncate,
        **learned,
    }


def texts_of(ids: Tensor, tokenizer: Tokenizer) -> Sequence[str]:
    """Return the texts of ids `(B, L)`; special ids are skipped."""
    return [tokenizer.decode(row) for row in ids.tolist()]
