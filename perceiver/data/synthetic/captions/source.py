"""Base of data sets that compose the texts of their targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from perceiver.data.loading.source import Source
from perceiver.modalities import ModalitySpec
from perceiver.modalities.texts.tokenizers import learn_tokenizer
from perceiver.targets.text import TextTarget, text_target


class CaptionedSource(Source):
    """Samples with a composed text as target.

    Args:
        specs: see `Source`.
        tokenizer: `pairs`: byte pairs learned from training texts by the package tokenizers, so that every word is an id;
            `bytes`: UTF-8 bytes.
        vocabulary_size: most ids of `pairs`.
        longest: most letters of a text, of one byte each.
        split_seed: see `Source`.

    Raises:
        ValueError: for an unknown tokenizer.
    """

    def __init__(
        self,
        *,
        specs: Mapping[str, ModalitySpec],
        tokenizer: Literal["pairs", "bytes"],
        vocabulary_size: int,
        longest: int,
        split_seed: int,
    ) -> None:
        super().__init__(specs=specs, split_seed=split_seed)
        if tokenizer not in ("pairs", "bytes"):
            raise ValueError(f"data.tokenizer: expected pairs or bytes, got {tokenizer!r}.")
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.max_length = longest + 2  # with start and end; a byte is never several ids

    @abstractmethod
    def texts(self, training: Any) -> Sequence[str]:
        """Return texts of the training split, with all of its words."""

    def learn(self, training: Any) -> dict[str, Any]:
        """Return the spec, with the tokenizer of the training texts."""
        statistics = self.statistics(training)
        tokenizer = learn_tokenizer(self.tokenizer, self.texts(training), vocabulary_size=self.vocabulary_size)
        return {
            "modalities": {name: {**own, **statistics.get(name, {})} for name, own in self.specs.items()},
            "target": text_target(tokenizer=tokenizer, max_length=self.max_length),
        }

    def known(self) -> dict[str, Any]:
        """See `Source.known`."""
        return {"modalities": self.specs, "target": {"kind": "text"}}

    def targets(self, texts: Sequence[str], ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the ids of texts, `(B, L)`, and their validity; `ids` name the samples."""
        assert self.spec is not None
        target = TextTarget.of(self.spec["target"])
        rows = [target.ids(text, where=f"target of sample {name!r}") for text, name in zip(texts, ids, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        stacked = pad_sequence(rows, batch_first=True)
        return stacked, torch.arange(stacked.shape[1]) < lengths[:, None]
