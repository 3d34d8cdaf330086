"""Synthetic long texts: random bytes, followed by the same bytes in reverse order (Perceiver AR, arXiv:2202.07765)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perceiver.data.loading.source import Source
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE
from perceiver.samples.batch import Sample
from perceiver.targets.text import text_target


class MirroredSequences:
    """Windows of sequences, each with the ids that follow its own as target; the last ones are of the mirrored half.

    Args:
        halves: `(sequences, half)` ids; None: a new random sequence for every window, which ends at a random place.
        count: number of windows if `halves` is None.
        half: ids of a half.
        predicted: ids that a window predicts.
    """

    def __init__(self, halves: Tensor | None, *, count: int = 0, half: int, predicted: int) -> None:
        self.halves = halves
        self.count = count
        self.half = half
        self.predicted = predicted
        self.windows = -(-half // predicted)

    def __len__(self) -> int:
        return self.count if self.halves is None else len(self.halves) * self.windows

    def __getitem__(self, index: int) -> Sample:
        last = 2 * self.half - 1
        if self.halves is None:
            half = random_ids(self.half)
            first = self.half - 1 + int(torch.randint(self.half - self.predicted + 1, ()))
            end = first + self.predicted
        else:
            number, window = divmod(index, self.windows)
            half = self.halves[number]
            first = self.half - 1 + window * self.predicted
            end = min(first + self.predicted, last)
        ids = torch.cat([half, half.flip(0)])
        counted = torch.zeros(end, dtype=torch.bool)
        counted[first:] = True
        return Sample(inputs={"text": ids[:end]}, target=ids[1 : end + 1], target_mask=counted, id=f"{index}@{first + 1}")


class MirroredCopy(Source):
    """Random bytes, then their mirror image: each byte of the second half is found far back, at its mirrored position.

    A window is the sequence up to some place in its second half; of its target, the last `predicted` bytes count. Validation
    and test windows count every byte of the second half once.

    Args:
        length: bytes of a sequence, both halves together; even.
        predicted: bytes that a window predicts: the number of latents.
        training_windows: windows per epoch, of sequences that are drawn anew.
        validation_sequences: number of sequences for validation.
        test_sequences: number of sequences for test.
        seed: seed of the validation and test sequences.

    Raises:
        ValueError: for an odd length, or more predicted bytes than half of it.
    """

    def __init__(
        self,
        *,
        length: int = 1024,
        predicted: int = 64,
        training_windows: int = 4096,
        validation_sequences: int = 32,
        test_sequences: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(specs={"text": {"kind": "text", "shape": [None], "vocabulary_size": VOCABULARY_SIZE}})
        if length % 2 or not 1 <= predicted <= length // 2:
            raise ValueError(
                f"data.length, data.predicted: expected an even length and at most half of it to predict, got {length} and "
                f"{predicted}."
            )
        if min(training_windows, validation_sequences, test_sequences) < 1:
            raise ValueError(
                "data.training_windows, data.validation_sequences, data.test_sequences: expected at least 1 each, got "
                f"{training_windows}, {validation_sequences} and {test_sequences}."
            )
        self.length = length
        self.predicted = predicted
        self.training_windows = training_windows
        self.sequences = (validation_sequences, test_sequences)
        self.seed = seed

    def read_training(self) -> tuple[MirroredSequences, MirroredSequences]:
        """Return training windows, and the windows of the validation sequences."""
        training = MirroredSequences(None, count=self.training_windows, half=self.length // 2, predicted=self.predicted)
        return training, self._held_out(0)

    def read_test(self) -> MirroredSequences:
        """Return the windows of the test sequences."""
        return self._held_out(1)

    def learn(self, training: Any) -> dict[str, Any]:
        """Return the known spec: nothing is measured."""
        return {
            "modalities": self.specs,
            "target": text_target(tokenizer={"kind": "bytes"}, max_length=self.length, truncate=True),
        }

    def known(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See `Source.known`."""
        return {"modalities": self.specs, "target": {"kind": "text"}}

    def unaltered(self, training: MirroredSequences) -> MirroredSequences:
        """Return windows of the same sequences in every epoch."""
        return self._held_out(0)

    def _held_out(self, which: int) -> MirroredSequences:
        generator = torch.Generator().manual_seed(2 * self.seed + which)
        halves = random_ids(self.sequences[which], self.length // 2, generator=generator)
        return MirroredSequences(halves, half=self.length // 2, predicted=self.predicted)


def random_ids(*size: int, generator: torch.Generator | None = None) -> Tensor:
    """Return ids of random bytes; None draws from torch's own random state."""
    return torch.randint(NUM_SPECIAL, VOCABULARY_SIZE, size, generator=generator)
