"""Base of data sets of digits in several modalities: sources, matching, statistics."""

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
    """Images of MNIST with recordings, or other modalities of a subclass, of the same digit.

    Splits are disjoint in every source: the official test splits of MNIST and the spoken digits, with validation images and
    recordings split off the rest. In a training epoch every image occurs once, with new partners; validation and test
    matches are fixed. All data is held in memory, about 100 MB. Ids name all sources of a sample, as in
    "mnist/test/17+spoken_digits/3_theo_0", even if only some of the modalities are used.

    Args:
        root: folder with `MNIST/raw/` and `free-spoken-digit-dataset/recordings/`.
        modalities: modalities of the samples. None: all. Matches and corruptions in evaluation do not depend on it.
        validation_images: number of the 60,000 training images used for validation.
        validation_recordings: number of the 2,700 recordings outside the test split used for validation.
        split_seed: seed of these splits; not the training seed.
        validation_pairs, test_pairs: number of validation and test samples.
        pair_seed: seed of matches and corruptions in validation and test, and of missing modalities; not the training seed.
        missing: by modality, the share of training samples that lack it, the same samples in every epoch; see
            `perceiver.data.loading.missing.present_modalities`. None: no missing modalities.
        drop_incomplete: train only on samples without missing modalities.
        download: download absent files. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.MNIST` and `perceiver.data.SpokenDigits`.
        ValueError: for unknown, missing or repeated modalities, numbers below 1, or an empty training split.
    """

    AVAILABLE: ClassVar[tuple[str, ...]] = ()
    """Modalities of the data set; the first is matched with the others."""

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
        present_modalities(missing or {}, modalities=self.modalities, num_samples=0, seed=0)  # for its checks
        self.validation_pairs = validation_pairs
        self.test_pairs = test_pairs
        self.pair_seed = pair_seed
        self.missing = dict(missing or {})
        self.drop_incomplete = drop_incomplete
        splits: dict[str, Any] = {"root": root, "split_seed": split_seed, "download": download}
        self._images = MNIST(**splits, validation_size=validation_images)
        self._recordings = SpokenDigits(**splits, validation_size=validation_recordings)
        specs = {**self._images.specs, **self._recordings.specs, "points": {"kind": "points", "shape": [None, 3]}}
        super().__init__(
            specs={name: specs[name] for name in self.modalities},
            class_names=self._images.class_names,
            split_seed=split_seed,
        )
        self.corruption_seed = pair_seed
        self._measured: dict[str, dict[str, Any]] = {}

    @property
    def available(self) -> tuple[str, ...]:
        """Return all modalities of the data set, used or not."""
        return self.AVAILABLE

    def prepare(self) -> None:
        """Download absent files, and check all files of both sources early."""
        self._images.prepare()
        self._recordings.prepare()

    def read_training(self) -> tuple[MatchedSamples, MatchedSamples]:
        """Return training samples with new partners at every access, and fixed validation matches."""
        images, validation_images = self._images.read_training()
        recordings, validation_recordings = self._recordings.read_training()
        if self.spec is None:
            self._measured = {**image_statistics(images), **self._recordings.statistics(recordings)}
        training = self._redrawn(self._matching(images, recordings))
        return training, self._fixed(self._matching(validation_images, validation_recordings), self.validation_pairs)

    def read_test(self) -> MatchedSamples:
        """Return matches of the official test splits."""
        return self._fixed(self._matching(self._images.read_test(), self._recordings.read_test()), self.test_pairs)

    def statistics(self, training: MatchedSamples) -> dict[str, dict[str, Any]]:
        """Return statistics of all training images and recordings, used in samples or not."""
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
        """Return the training split: every training image once, with new partners at every access."""
        numbers = torch.arange(len(matching.labels))
        present = None
        if self.missing:
            present = present_modalities(
                self.missing, modalities=self.modalities, num_samples=len(numbers), seed=self.pair_seed
            )
            if self.drop_incomplete:
                numbers, present = numbers[present.all(dim=1)], None
        if len(numbers) == 0:
            raise ValueError("data.drop_incomplete: every training sample lacks a modality; reduce data.missing.")
        return MatchedSamples(matching=matching, modalities=self.modalities, numbers=numbers, present=present)

    def _fixed(self, matching: Matching, size: int) -> MatchedSamples:
        numbers = evaluation_matches(matching, size=size, seed=self.pair_seed)
        return MatchedSamples(matching=matching, modalities=self.modalities, numbers=numbers)

    def take(self, stored: Mapping[str, Any]) -> None:
        """See `Source.take`; errors state how to choose the stored modalities."""
        theirs = sorted(stored.get("modalities") or {})
        if theirs != sorted(self.modalities):
            raise ValueError(
                f"spec.modalities: {type(self).__name__} is set to {sorted(self.modalities)}, but the stored spec has "
                f"{theirs}. Set data.modalities=[{','.join(stored.get('modalities') or {})}], or use the data that "
                "the checkpoint was trained on."
            )
        super().take(stored)

    def unaltered(self, training: MatchedSamples) -> MatchedSamples:
        """Return training samples with fixed partners: overfitting on one batch needs an identical batch."""
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
    """MNIST's images as pixels and as points. Methods, not closures: loader processes may pickle them."""

    images: LabelledImages

    def image(self, number: int) -> Tensor:
        """Return an image `(1, 28, 28)` in [0, 1]."""
        return self.images.pixels[number].to(torch.float32) / 255

    def points(self, number: int) -> Tensor:
        """Return `(P, 3)`: x, y and ink of the inked pixels. Made on demand: all sets would take 100 MB."""
        return inked_points(self.images.pixels[number, 0])

    def name(self, number: int) -> str:
        """Return the name as in `LabelledImages.names`."""
        return f"{self.images.ids}/{int(self.images.numbers[number])}"


@dataclass(frozen=True)
class _Recordings:
    """Recordings by number."""

    samples: InMemory

    def sound(self, number: int) -> Tensor:
        """Return a recording `(1, samples)`."""
        sound = self.samples[number].inputs["audio"]
        assert isinstance(sound, Tensor)
        return sound

    def name(self, number: int) -> str:
        """Return the id of a recording."""
        return self.samples[number].id
