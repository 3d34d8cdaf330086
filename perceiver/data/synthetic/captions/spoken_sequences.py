"""Transcription: sequences of spoken digits, joined from recordings of one speaker with pauses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch

from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.loading.samples import BatchedSamples
from perceiver.data.synthetic.captions.language import DIGITS
from perceiver.data.synthetic.captions.source import CaptionedSource
from perceiver.data.synthetic.captions.speech import Speech, Utterance, pauses_of
from perceiver.runtime.random_streams import stream_seed
from perceiver.samples.batch import Batch
from perceiver.samples.grounding import Phrase

_VALIDATION, _TEST, _OVERFITTING = range(3)


class SequenceSplit(BatchedSamples):
    """A split of spoken sequences: fixed, or newly composed at every access.

    Args:
        speech: composes the sequences.
        owner: data set whose spec has the tokenizer.
        ids: prefix of the ids, before the number.
        size: number of sequences.
        words: (fewest, most) words of a sequence.
        seed: seed of fixed sequences; None: draw new ones from torch's global random state.
    """

    def __init__(
        self,
        speech: Speech,
        owner: SpokenSequences,
        *,
        ids: str,
        size: int,
        words: tuple[int, int],
        seed: int | None,
    ) -> None:
        self.speech = speech
        self.words = words
        self.owner = owner
        self.ids = ids
        self.size = size
        self.fixed: list[tuple[list[int], Utterance]] | None = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            self.fixed = [self._drawn(generator) for _ in range(size)]

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""
        ids = [f"{self.ids}/{number}" for number in indices]
        drawn = [self._drawn(None) if self.fixed is None else self.fixed[number] for number in indices]
        target, valid = self.owner.targets([transcript(digits) for digits, _ in drawn], ids)
        sound, mask = self.speech.batch([utterance for _, utterance in drawn])
        batch = Batch(inputs={"audio": sound}, target=target, target_mask=valid, ids=ids)
        if mask is not None:
            batch.masks["audio"] = mask
        if self.fixed is not None:
            batch.groundings = [grounded(digits, self.speech.intervals(utterance)) for digits, utterance in drawn]
        return batch

    def _drawn(self, generator: torch.Generator | None) -> tuple[list[int], Utterance]:
        fewest, most = self.words
        length = int(torch.randint(fewest, most + 1, (), generator=generator))
        digits: list[int] = torch.randint(len(DIGITS), (length,), generator=generator).tolist()
        return digits, self.speech.draw(digits, generator=generator)


class SpokenSequences(CaptionedSource):
    """Transcribe sequences of spoken digits: recordings of one speaker, joined with pauses.

    Batches hold `inputs["audio"]` `(B, 1, samples)` with `masks["audio"]` `(B, samples)`, the target, such as the ids of
    "seven three one", and in validation and test the place of each word. Training sequences are newly composed in every
    epoch, from the recordings of the split of `perceiver.data.SpokenDigits`.

    Args:
        root: folder with `free-spoken-digit-dataset/recordings/`.
        held_out_speaker: test on recordings of this speaker, train and validate on the others. None: the official split,
            with every speaker in every split.
        words: (fewest, most) words of a sequence.
        training_words: the same for training; None: `words`. In short sequences it is easier to find out which sound belongs
            to which word.
        pause_seconds: (least, most) silence before, between and after words.
        training_sequences: number of sequences per epoch.
        validation_sequences, test_sequences: number of sequences.
        sequence_seed: seed of the sequences of validation and test; not the training seed.
        sample_rate: sample rate in hertz.
        validation_recordings: number of recordings used for validation.
        split_seed: seed of that split.
        tokenizer, vocabulary_size: see `CaptionedSource`.
        download: download absent files. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.SpokenDigits`.
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        held_out_speaker: str | None = None,
        words: Sequence[int] = (3, 5),
        training_words: Sequence[int] | None = None,
        pause_seconds: Sequence[float] = (0.05, 0.3),
        training_sequences: int = 4096,
        validation_sequences: int = 400,
        test_sequences: int = 600,
        sequence_seed: int = 0,
        sample_rate: int = 8000,
        validation_recordings: int = 300,
        split_seed: int = 0,
        tokenizer: Literal["pairs", "bytes"] = "pairs",
        vocabulary_size: int = 320,
        download: bool = True,
    ) -> None:
        sizes = {"training": training_sequences, "validation": validation_sequences, "test": test_sequences}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"data.{name}_sequences: expected 1 or more, got {size}.")
        for name, limits in (("words", words), ("training_words", training_words or words)):
            if len(limits) != 2 or not 1 <= limits[0] <= limits[1]:
                raise ValueError(f"data.{name}: expected [fewest, most] words, at least 1, got {list(limits)}.")
        self._recordings = SpokenDigits(
            root=root,
            sample_rate=sample_rate,
            validation_size=validation_recordings,
            split_seed=split_seed,
            held_out_speaker=held_out_speaker,
            download=download,
        )
        super().__init__(
            specs=self._recordings.specs,
            tokenizer=tokenizer,
            vocabulary_size=vocabulary_size,
            longest=6 * max(words[1], (training_words or words)[1]) - 1,
            split_seed=split_seed,
        )
        self.words = (int(words[0]), int(words[1]))
        self.training_words = self.words if training_words is None else (int(training_words[0]), int(training_words[1]))
        self.sizes = sizes
        self.sequence_seed = sequence_seed
        self.corruption_seed = sequence_seed
        self.pauses = pauses_of(pause_seconds, sample_rate=sample_rate)
        self._loudness: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Download absent recordings, and check all of them."""
        self._recordings.prepare()

    def read_training(self) -> tuple[SequenceSplit, SequenceSplit]:
        """Return training sequences, newly composed at every access, and fixed validation sequences."""
        training, validation = self._recordings.read_training()
        self._loudness = self._recordings.statistics(training) if self.spec is None else {}
        return (
            self._split("train", Speech(training, pauses=self.pauses), None),
            self._split("val", Speech(validation, pauses=self.pauses), _VALIDATION),
        )

    def read_test(self) -> SequenceSplit:
        """Return test sequences."""
        return self._split("test", Speech(self._recordings.read_test(), pauses=self.pauses), _TEST)

    def unaltered(self, training: SequenceSplit) -> SequenceSplit:
        """Return training sequences that are the same in every epoch."""
        return self._split("train", training.speech, _OVERFITTING)

    def statistics(self, training: SequenceSplit) -> dict[str, dict[str, Any]]:
        """Return unit scale over the training recordings."""
        return self._loudness

    def texts(self, training: SequenceSplit) -> Sequence[str]:
        """Return every word, both at the start of a text and after another word."""
        return [transcript([first, second]) for first in range(len(DIGITS)) for second in range(len(DIGITS))]

    def _split(self, name: str, speech: Speech, stream: int | None) -> SequenceSplit:
        size = self.sizes[{"train": "training", "val": "validation", "test": "test"}[name]]
        seed = None if stream is None else stream_seed(self.sequence_seed, stream)
        words = self.training_words if name == "train" else self.words
        return SequenceSplit(speech, self, ids=f"spoken_sequences/{name}", size=size, words=words, seed=seed)


def transcript(digits: Sequence[int]) -> str:
    """Return the words of digits."""
    return " ".join(DIGITS[digit] for digit in digits)


def grounded(digits: Sequence[int], intervals: Sequence[tuple[int, int]]) -> tuple[Phrase, ...]:
    """Return each word of a transcript with the samples in which it is spoken."""
    phrases, place = [], 0
    for digit, interval in zip(digits, intervals, strict=True):
        end = place + len(DIGITS[digit])
        phrases.append(Phrase(start=place, end=end, modality="audio", box=(interval,)))
        place = end + 1
    return tuple(phrases)
