"""Base of data sets of text pairs: an input text, and the text to generate from it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from perceiver.data.loading.source import Source
from perceiver.modalities.texts.tokenizers import learn_tokenizer, tokenizer_of
from perceiver.runtime.process_rank import process_rank
from perceiver.samples.batch import Sample
from perceiver.targets.dictionary import learn_pairs
from perceiver.targets.text import TextTarget, text_target
from perceiver.targets.words import words_in

log = logging.getLogger(__name__)

_MOST_LEARNED = 100_000  # pairs of texts from which a dictionary is learned


@dataclass(frozen=True, kw_only=True)
class TextPair:
    """An input text and its target.

    Args:
        source: input text.
        target: text to generate.
        id: names the pair in messages and tables.
    """

    source: str
    target: str
    id: str


class TextPairs:
    """A split of text pairs, encoded when they are first read.

    Args:
        pairs: the pairs.
        owner: data set whose spec has the tokenizers.
    """

    def __init__(self, pairs: Sequence[TextPair], owner: TextPairSource) -> None:
        self.pairs = pairs
        self._owner = owner

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self._encoded[index]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """The number of ids of each pair: of the target, and of the input."""
        return [(len(one.target), len(one.inputs["text"])) for one in self._encoded]  # type: ignore[arg-type]

    @cached_property
    def _encoded(self) -> list[Sample]:
        spec = self._owner.spec
        assert spec is not None
        [(name, modality)] = spec["modalities"].items()
        tokenizer, target = tokenizer_of(modality.get("tokenizer")), TextTarget.of(spec["target"])
        samples, cut = [], 0
        for pair in self.pairs:
            ids = tokenizer.encode(pair.source)
            if not ids or all(number in tokenizer.unknown for number in ids):
                what = "has no character that the tokenizer knows" if pair.source.strip() else "is empty"
                raise ValueError(f"{pair.id}: its input text {what}. Leave the pair out, or mend the file.")
            long = len(ids) > modality["max_length"]
            if long:
                if not target.truncate:
                    raise ValueError(
                        f"{pair.id}: its input text has {len(ids)} ids, more than data.max_length = "
                        f"{modality['max_length']}. Raise data.max_length, or set data.truncate=true to cut long texts."
                    )
                ids = ids[: modality["max_length"]]
            answer, answer_cut = target.encoded(pair.target, where=pair.id)
            cut += long or answer_cut
            whole = torch.ones(len(answer), dtype=torch.bool)
            samples.append(Sample({name: torch.tensor(ids)}, target=answer, id=pair.id, target_mask=whole))
        if cut and process_rank() == 0:
            log.warning(
                "%d of %d text pairs, such as %s, are cut to data.max_length = %d ids.",
                *(cut, len(samples), self.pairs[0].id, target.max_length),
            )
        return samples


class TextPairSource(Source):
    """Pairs of texts: the input is the modality `text`, the target a text. Subclasses read the pairs.

    Both languages share a tokenizer.

    Args:
        tokenizer: `pairs`: byte pairs learned from the training split by the package tokenizers; `bytes`: UTF-8 bytes.
        vocabulary_size: number of ids of `pairs`.
        max_length: most ids of an input, and of a target with start and end.
        truncate: cut longer texts instead of refusing them.

    Raises:
        ValueError: for an unknown tokenizer, or a maximum below 3.
    """

    def __init__(
        self,
        *,
        tokenizer: Literal["pairs", "bytes"] = "pairs",
        vocabulary_size: int = 4000,
        max_length: int = 96,
        truncate: bool = False,
        split_seed: int = 0,
    ) -> None:
        super().__init__(specs={"text": {"kind": "text", "shape": [None]}}, split_seed=split_seed)
        if tokenizer not in ("pairs", "bytes"):
            raise ValueError(f"data.tokenizer: expected pairs or bytes, got {tokenizer!r}.")
        if max_length < 3:
            raise ValueError(f"data.max_length: expected 3 or more, got {max_length}.")
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.truncate = truncate

    @abstractmethod
    def read_pairs(self, split: str) -> list[TextPair]:
        """Return the pairs of "train", "val" or "test"."""

    def read_training(self) -> tuple[TextPairs, TextPairs]:
        """Return the training and validation pairs."""
        return TextPairs(self.read_pairs("train"), self), TextPairs(self.read_pairs("val"), self)

    def read_test(self) -> TextPairs:
        """Return the test pairs."""
        return TextPairs(self.read_pairs("test"), self)

    def learn(self, training: Any) -> dict[str, Any]:
        """Return the spec, with the tokenizer of the training texts."""
        texts = (text for pair in training.pairs for text in (pair.source, pair.target))
        tokenizer = learn_tokenizer(self.tokenizer, texts, vocabulary_size=self.vocabulary_size)
        [modality] = self.specs
        words = [(words_in(pair.source), words_in(pair.target)) for pair in training.pairs[:_MOST_LEARNED]]
        target = text_target(
            tokenizer=tokenizer,
            max_length=self.max_length,
            truncate=self.truncate,
            dictionary={"modality": modality, "pairs": learn_pairs(words)},
        )
        learned = {"vocabulary_size": target["vocabulary_size"], "max_length": self.max_length, "tokenizer": tokenizer}
        return {"modalities": {name: {**own, **learned} for name, own in self.specs.items()}, "target": target}

    def known(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See `Source.known`."""
        return {"modalities": self.specs, "target": {"kind": "text"}}
