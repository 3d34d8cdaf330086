"""What data sets of digits in several modalities at once have in common: sources of each, matching, statistics."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.loading.images import LabelledImages, image_statistics
from perceiver.data.loading.missing import present_modalities
from perceiver.data.loading.samples import InMemory
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.digit_points import inked_points
from perceiver.data.synthetic.matching import (
    MatchedSamples,
    Matching,
    ModalitySource,
    drawn_matches,
    evaluation_matches,
)


class PairedDigits(Source):
    """Images of MNIST, each with recordings, or with what else a subclass has, of the same digit.

    Splits are disjoint in every source: MNIST's and the spoken digits' own test splits, validation images and recordings
    split off the rest. In an epoch of training every image occurs once, with partners drawn anew; validation and test
    matches are drawn once. Everything is held in memory, some 100 MB. Ids name all sources of a sample, as in
    "mnist/test/17+spoken_digits/3_theo_0", also where only some of the modalities are used.

    Args:
        root: the folder that holds `MNIST/raw/` and `free-spoken-digit-dataset/recordings/`.
        modalities: which of the data set's modalities samples have. None: all. Which samples go together, and how they are
            corrupted in evaluation, does not depend on it.
        validation_images: how many of the 60,000 training images are for validation.
        validation_recordings: how many of the 2,700 recordings that are not for the test are for validation.
        split_seed: which of them; not the training seed.
        validation_pairs, test_pairs: how many samples validation and test have.
        pair_seed: which samples go together in validation and test, how they are corrupted, and which training samples lack
            what; not the training seed.
        missing: by modality, the share of training samples that lack it in every epoch, the same ones; see
            `perceiver.data.loading.missing.present_modalities`. None: no sample lacks anything.
        drop_incomplete: train on those samples only that lack nothing.
        download: download the files that are absent. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.MNIST` and `perceiver.data.SpokenDigits`.
        ValueError: unknown modalities, none or one twice, numbers below 1, or nothing left to train on.
    """

    AVAILABLE: ClassVar[tuple[str, ...]] = ()
    """The modalities of the data set; the first is matched with the others."""

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        modalities: Sequence[str] | None = None,
        validation_images: int = 5000,
        validation_recordings: int = 300,
        split_seed: int = 0,
        validation_pairs: int = 5000,
        test_pairs: int = 10000,
        pair_seed: int = 0,
        missing: Mapping[str, float] | None = None,
        drop_incomplete: bool = False,
        download: bool = True,
    ) -> None:
        for name, value in {"validation_pairs": validation_pairs, "test_pairs": test_pairs}.items():
            if value < 1:
                raise ValueError(f"data.{name}: expected 1 or more, got {value}.")
        self.modalities = self._chosen(modalities)
        present_modalities(missing or {}, modalities=self.modalities, num_samples=0, seed=0)  # for its errors
        self.validation_pairs = validation_pairs
        self.test_pairs = test_pairs
        self.pair_seed = pair_seed
        self.missing = dict(missing or {})
        self.drop_incomplete = drop_incomplete
        splits: dict[str, Any] = {"root": root, "split_seed": split_seed, "download": download}
        self._images = MNIST(**splits, validation_size=validation_images)
        self._recordings = SpokenDigits(**splits, validation_size=validation_recordings)
        facts = {**self._images.facts, **self._recordings.facts, "points": {"kind": "points", "shape": [None, 3]}}
        super().__init__(
            facts={name: facts[name] for name in self.modalities},
            class_names=self._images.class_names,
            split_seed=split_seed,
        )
        self.corruption_seed = pair_seed
        self._measured: dict[str, dict[str, Any]] = {}

    @property
    def available(self) -> tuple[str, ...]:
        """All modalities of the data set, whichever samples have."""
        return self.AVAILABLE

    def prepare(self) -> None:
        """Downloads what is absent and checks all files of both sources before any time is spent."""
        self._images.prepare()
        self._recordings.prepare()

    def read_training(self) -> tuple[MatchedSamples, MatchedSamples]:
        """Every image once, with new partners whenever it is asked for, and matches of the rest."""
        images, validation_images = self._images.read_training()
        recordings, validation_recordings = self._recordings.read_training()
        if self.spec is None:
            self._measured = {**image_statistics(images), **self._recordings.statistics(recordings)}
        training = self._redrawn(self._matching(images, recordings))
        return training, self._fixed(self._matching(validation_images, validation_recordings), self.validation_pairs)

    def read_test(self) -> MatchedSamples:
        """Matches of the official test splits."""
        return self._fixed(self._matching(self._images.read_test(), self._recordings.read_test()), self.test_pairs)

    def statistics(self, training: MatchedSamples) -> dict[str, dict[str, Any]]:
        """Those of all training images and recordings, in whichever samples they are."""
        return self._measured

    def _matching(self, images: LabelledImages, recordings: InMemory) -> Matching:
        pictures, sounds = _Digits(images), _Recordings(recordings)
        sources = {
            "image": ModalitySource(labels=images.labels, read=pictures.image, name=pictures.name, origin="mnist"),
            "audio": ModalitySource(
                labels=torch.as_tensor(recordings.labels), read=sounds.sound, name=sounds.name, origin="spoken_digits"
            ),
            "points": ModalitySource(labels=images.labels, read=pictures.points, name=pictures.name, origin="mnist"),
        }
        return Matching({name: sources[name] for name in self.AVAILABLE})

    def _redrawn(self, matching: Matching) -> MatchedSamples:
        """The training split: every image that is to be trained on, with new partners whenever it is asked for."""
        numbers = torch.arange(len(matching.labels))
        present = None
        if self.missing:
            present = present_modalities(
                self.missing, modalities=self.modalities, num_samples=len(numbers), seed=self.pair_seed
            )
            if self.drop_incomplete:
                numbers, present = numbers[present.all(dim=1)], None
        if len(numbers) == 0:
            raise ValueError("data.drop_incomplete: every training sample lacks something; lower data.missing.")
        return MatchedSamples(matching=matching, modalities=self.modalities, numbers=numbers, present=present)

    def _fixed(self, matching: Matching, size: int) -> MatchedSamples:
        numbers = evaluation_matches(matching, size=size, seed=self.pair_seed)
        return MatchedSamples(matching=matching, modalities=self.modalities, numbers=numbers)

    def take(self, stored: Mapping[str, Any]) -> None:
        """As `Source.take`; says how to choose the stored modalities."""
        theirs = sorted(stored.get("modalities") or {})
        if theirs != sorted(self.modalities):
            raise ValueError(
                f"spec.modalities: {type(self).__name__} is set to {sorted(self.modalities)}, but the stored spec says "
                f"{theirs}. Set data.modalities=[{','.join(stored.get('modalities') or {})}], or use the data that the "
                "checkpoint was trained on."
            )
        super().take(stored)

    def unaltered(self, training: MatchedSamples) -> MatchedSamples:
        """Overfitting on one batch needs the same batch every time, partners and all."""
        generator = torch.Generator().manual_seed(self.pair_seed)
        return MatchedSamples(
            matching=training.matching,
            modalities=training.modalities,
            numbers=drawn_matches(training.matching, training.numbers, generator=generator),
            present=training.present,
        )

    def _chosen(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        chosen = self.AVAILABLE if modalities is None else tuple(modalities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(self.AVAILABLE):
            raise ValueError(
                f"data.modalities: expected one or more of {', '.join(self.AVAILABLE)}, each once, or null for all, got "
                f"{list(chosen)}."
            )
        return chosen


@dataclass(frozen=True)
class _Digits:
    """MNIST's images in the two forms in which they are read. Methods, not closures: loader processes may pickle them."""

    images: LabelledImages

    def image(self, number: int) -> Tensor:
        """`(1, 28, 28)` in [0, 1]."""
        return self.images.pixels[number].to(torch.float32) / 255

    def points(self, number: int) -> Tensor:
        """`(P, 3)`: x, y and ink of the pixels that have any. Made when asked for: all of them would take 100 MB."""
        return inked_points(self.images.pixels[number, 0])

    def name(self, number: int) -> str:
        """As in `LabelledImages.names`."""
        return f"{self.images.ids}/{int(self.images.numbers[number])}"


@dataclass(frozen=True)
class _Recordings:
    """Recordings by number."""

    samples: InMemory

    def sound(self, number: int) -> Tensor:
        """`(1, samples)`."""
        sound = self.samples[number].inputs["audio"]
        assert isinstance(sound, Tensor)
        return sound

    def name(self, number: int) -> str:
        """Its id."""
        return self.samples[number].id
