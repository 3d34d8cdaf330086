"""Long texts for next-token prediction: one stream of ids per split, read through windows of its last ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from perceiver.data.loading.source import Source
from perceiver.data.readers.texts.source import TextSource
from perceiver.data.readers.texts.windows import Stretch
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.modalities.texts.tokenizers import END
from perceiver.samples.batch import Sample
from perceiver.targets.text import text_target


class NextTokenWindows:
    """Windows of a stream of ids, each with the ids that follow its own as target.

    Window k predicts, last, ids that no other window counts. In training it ends at a random place of its stretch of
    `stride` ids, and has all `context` ids if the stream has as many.

    Args:
        stream: `(T,)` ids; all but the first are predicted.
        context: most ids of a window.
        stride: number of ids that a window counts.
        random: end windows at random places, and count all their ids.
        name: begins the ids of samples.
    """

    def __init__(
        self, stream: Int[Tensor, "ids"], *, context: int, stride: int, random: bool = False, name: str = "text"
    ) -> None:
        self.stream = stream
        self.context = context
        self.stride = stride
        self.random = random
        self.name = name

    def __len__(self) -> int:
        return -(-(len(self.stream) - 1) // self.stride)

    def __getitem__(self, index: int) -> Sample:
        last = len(self.stream) - 1
        first = index * self.stride
        end = min(first + self.stride, last)
        if self.random:
            end = max(first + 1 + int(torch.randint(end - first, ())), min(self.context, last))
        start = max(0, end - self.context)
        counted = torch.zeros(end - start, dtype=torch.bool)
        counted[0 if self.random else first - end :] = True
        return Sample(
            inputs={"text": self.stream[start:end]},
            target=self.stream[start + 1 : end + 1],
            target_mask=None if self.random else counted,
            id=f"{self.name}@{start}",
        )


class LongTexts(Source):
    """Long texts, to be predicted id by id. The texts of a split form one stream, with an end id before and after each.

    A window is the modality `text`, up to `context` ids; its target are the ids that follow each of them. In validation and
    test, window k counts the ids k * stride + 1 to (k + 1) * stride of the stream, predicted from all ids before them that
    the window holds: every id is counted once. Of a window's latents, those before the last `stride` ids only serve as
    context: with `stride` below the number of latents each counted id has more latents before it, and evaluation takes
    longer.

    Args:
        texts: where the texts come from, and their splits. Its windows are not used.
        context: most ids of a window, M.
        predicted: ids that a window predicts in training, N: the number of latents.
        stride: ids that a window counts in validation and test, at most N; None: N.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(self, *, texts: TextSource, context: int, predicted: int, stride: int | None = None) -> None:
        specs = {"text": {"kind": "text", "shape": [None], "vocabulary_size": VOCABULARY_SIZE}}
        super().__init__(specs=specs, split_seed=texts.split_seed)
        stride = predicted if stride is None else stride
        if not 1 <= stride <= predicted <= context:
            raise ValueError(
                f"data.stride, data.predicted, data.context: expected 1 <= stride <= predicted <= context, got {stride}, "
                f"{predicted} and {context}."
            )
        self.texts = texts
        self.context = context
        self.predicted = predicted
        self.stride = stride

    def prepare(self) -> None:
        """Let the source of the texts download and check its files."""
        self.texts.prepare()

    def read_training(self) -> tuple[NextTokenWindows, NextTokenWindows]:
        """Return the windows of the training and the validation split."""
        training, validation, _ = self.texts.stretches()
        return (
            NextTokenWindows(stream_of(training), context=self.context, stride=self.predicted, random=True, name="training"),
            self._evaluation(validation, name="validation"),
        )

    def read_test(self) -> NextTokenWindows:
        """Return the windows of the test split."""
        return self._evaluation(self.texts.stretches()[2], name="test")

    def unaltered(self, training: NextTokenWindows) -> NextTokenWindows:
        """Return windows of the training split that end at fixed places."""
        return NextTokenWindows(training.stream, context=self.context, stride=self.predicted, name=training.name)

    def learn(self, training: Any) -> dict[str, Any]:
        """Return the spec: ids are bytes, so nothing is measured."""
        return {
            "modalities": self.specs,
            "target": text_target(tokenizer={"kind": "bytes"}, max_length=self.context, truncate=True),
        }

    def known(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See `Source.known`."""
        return {"modalities": self.specs, "target": {"kind": "text"}}

    def _evaluation(self, stretches: Sequence[Stretch], *, name: str) -> NextTokenWindows:
        return NextTokenWindows(stream_of(stretches), context=self.context, stride=self.stride, name=name)


def stream_of(stretches: Sequence[Stretch]) -> Int[Tensor, "ids"]:
    """Return the ids of all texts in order, with an end id before the first and after each."""
    end = torch.tensor([END])
    pieces = [end]
    for one in stretches:
        pieces += [encode_bytes(one.raw.decode()), end]
    return torch.cat(pieces)
