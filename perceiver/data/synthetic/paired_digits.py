"""What data sets of digits in several modalities at once have in common: sources, matching, spec, data loaders."""

import os
from abc import ABC
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.batch import Sample
from perceiver.data.datasets.mnist import HEIGHT, MNIST, NUM_CLASSES, WIDTH
from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.loading.images import LabelledImages
from perceiver.data.loading.loaders import (
    check_loading,
    check_stored,
    known_spec,
    loader,
    overfits,
    shuffled_loader,
    stored_facts,
)
from perceiver.data.loading.matched_collation import ByModality, MatchedCollate, check_names
from perceiver.data.loading.missing import present_modalities
from perceiver.data.loading.samples import Samples
from perceiver.data.readers.audio import loudness
from perceiver.data.synthetic.digit_points import inked_points
from perceiver.data.synthetic.matching import (
    MatchedSamples,
    Matching,
    Source,
    drawn_matches,
    evaluation_matches,
)
from perceiver.targets.classes import classes_target


class PairedDigits(LightningDataModule, ABC):
    """Images of MNIST, each with recordings, or with what else a subclass has, of the same digit.

    Splits are disjoint in every source: MNIST's and the spoken digits' own test splits, validation images and recordings
    split off the rest. In an epoch of training every image occurs once, with partners drawn anew; validation and test
    matches are drawn once. Everything is held in memory, some 100 MB. Ids name all sources of a sample, as in
    "mnist/test/17+spoken_digits/3_theo_0", also where only some of the modalities are used.

    Args:
        root: the folder that holds `MNIST/raw/` and `free-spoken-digit-dataset/recordings/`.
        modalities: which of the data set's modalities samples have. None: all. Which samples go together, and how they are
            corrupted in evaluation, does not depend on it.
        batch_size: samples per batch and process.
        num_workers: loader processes; 0 is right, a batch takes a few milliseconds.
        validation_images: how many of the 60,000 training images are for validation.
        validation_recordings: how many of the 2,700 recordings that are not for the test are for validation.
        split_seed: which of them; not the training seed.
        validation_pairs, test_pairs: how many samples validation and test have.
        pair_seed: which samples go together in validation and test, how they are corrupted, and which training samples lack
            what; not the training seed.
        missing: by modality, the share of training samples that lack it in every epoch, the same ones; see
            `perceiver.data.loading.missing.present_modalities`. None: no sample lacks anything.
        drop_incomplete: train on those samples only that lack nothing.
        augment: transforms of training batches, by modality and name: images as `data.loading.images.Augment`, others as
            `perceiver.data.loading.collation.Augment`.
        corruption: the same, applied after them, in validation and test too; there it depends on the sample alone.
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
        batch_size: int = 64,
        num_workers: int = 0,
        validation_images: int = 5000,
        validation_recordings: int = 300,
        split_seed: int = 0,
        validation_pairs: int = 5000,
        test_pairs: int = 10000,
        pair_seed: int = 0,
        missing: Mapping[str, float] | None = None,
        drop_incomplete: bool = False,
        augment: ByModality | None = None,
        corruption: ByModality | None = None,
        download: bool = True,
    ) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        for name, value in {"validation_pairs": validation_pairs, "test_pairs": test_pairs}.items():
            if value < 1:
                raise ValueError(f"data.{name}: expected 1 or more, got {value}.")
        self.modalities = self._chosen(modalities)
        check_names(augment, available=self.AVAILABLE, argument="data.augment")
        check_names(corruption, available=self.AVAILABLE, argument="data.corruption")
        present_modalities(missing or {}, modalities=self.modalities, num_samples=0, seed=0)  # for its errors
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation_pairs = validation_pairs
        self.test_pairs = test_pairs
        self.pair_seed = pair_seed
        self.missing = dict(missing or {})
        self.drop_incomplete = drop_incomplete
        self.augment = augment
        self.corruption = corruption
        self.class_names = [str(digit) for digit in range(NUM_CLASSES)]
        splits: dict[str, Any] = {"root": root, "split_seed": split_seed, "download": download}
        self._images = MNIST(**splits, validation_size=validation_images)
        self._recordings = SpokenDigits(**splits, validation_size=validation_recordings)
        self.facts: dict[str, dict[str, Any]] = {
            "image": {"kind": "image", "shape": [1, HEIGHT, WIDTH], "range": [0, 255]},
            "audio": self._recordings.facts,
            "points": {"kind": "points", "shape": [None, 3]},
        }
        self._spec: dict[str, Any] | None = None
        self._training: MatchedSamples | None = None
        self._validation: MatchedSamples | None = None
        self._test: MatchedSamples | None = None

    def prepare_data(self) -> None:
        """Downloads what is absent and checks all files of both sources before any time is spent."""
        self._images.prepare_data()
        self._recordings.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Reads what a stage ("fit", "validate", "test", "predict"; None for all) needs, once; makes the spec."""
        if self._training is None and (self._spec is None or stage in ("fit", "validate", None)):
            self._read_training()
        if self._test is None and stage in ("test", "predict", None):
            matching = self._matching(self._images.read_test(), self._recordings.read_test())
            self._test = self._fixed(matching, self.test_pairs)

    def _read_training(self) -> None:
        images, validation_images = self._images.read_training()
        recordings, validation_recordings = self._recordings.read_training()
        self._training = self._redrawn(self._matching(images, recordings))
        self._validation = self._fixed(self._matching(validation_images, validation_recordings), self.validation_pairs)
        if self._spec is None:
            statistics = {"image": _pixel_statistics(images), "audio": loudness(recordings, at_most=len(recordings))}
            self._spec = {
                "modalities": {name: {**self.facts[name], **statistics.get(name, {})} for name in self.modalities},
                "target": classes_target(
                    names=self.class_names, counts=self._training.labels.bincount(minlength=NUM_CLASSES).tolist()
                ),
                "num_classes": NUM_CLASSES,
            }

    def _matching(self, images: LabelledImages, recordings: Samples) -> Matching:
        pictures, sounds = _Digits(images), _Recordings(recordings)
        sources = {
            "image": Source(labels=images.labels, read=pictures.image, name=pictures.name, origin="mnist"),
            "audio": Source(
                labels=torch.as_tensor(recordings.labels), read=sounds.sound, name=sounds.name, origin="spoken_digits"
            ),
            "points": Source(labels=images.labels, read=pictures.points, name=pictures.name, origin="mnist"),
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

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: a plain dict; there after `prepare_data()` and `setup("fit")`.

        Set it, before the loaders are made, to what a run directory or checkpoint holds: validation, test, prediction and
        resumed training then normalise by the stored statistics.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data: other modalities, facts or classes.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        theirs = stored.get("modalities", {})
        if sorted(theirs) != sorted(self.modalities):
            raise ValueError(
                f"spec.modalities: {type(self).__name__} is set to {sorted(self.modalities)}, but the stored spec says "
                f"{sorted(theirs)}. Set data.modalities=[{','.join(theirs)}], or use the data that the checkpoint was "
                "trained on."
            )
        expected = stored_facts({name: self.facts[name] for name in self.modalities}, stored)
        expected["target.names"] = (self.class_names, list(stored.get("target", {}).get("names", [])))
        check_stored(expected, module=self)
        self._spec = deepcopy(dict(stored))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split, augmented and corrupted."""
        if self._training is None:
            self.setup("fit")
        assert self._training is not None
        if overfits(self):
            return loader(self._frozen(self._training), self._collate(seed=self.pair_seed), module=self, shuffle=True)
        collate = self._collate(seed=None)
        collate.check(self._training[self._complete(self._training)])
        return shuffled_loader(self._training, collate, module=self)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split, in order, corrupted in the same way every time."""
        if self._validation is None:
            self.setup("validate")
        assert self._validation is not None
        return loader(self._validation, self._collate(seed=self.pair_seed), module=self)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order, corrupted in the same way every time."""
        if self._test is None:
            self.setup("test")
        assert self._test is not None
        return loader(self._test, self._collate(seed=self.pair_seed), module=self)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        return self.test_dataloader()

    def _frozen(self, training: MatchedSamples) -> MatchedSamples:
        """Overfitting on one batch needs the same batch every time, partners and all."""
        generator = torch.Generator().manual_seed(self.pair_seed)
        return MatchedSamples(
            matching=training.matching,
            modalities=training.modalities,
            numbers=drawn_matches(training.matching, training.numbers, generator=generator),
            present=training.present,
        )

    def _collate(self, *, seed: int | None) -> MatchedCollate:
        return MatchedCollate(spec=self.spec, augment=self.augment, corruption=self.corruption, seed=seed)

    def _chosen(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        chosen = self.AVAILABLE if modalities is None else tuple(modalities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(self.AVAILABLE):
            raise ValueError(
                f"data.modalities: expected one or more of {', '.join(self.AVAILABLE)}, each once, or null for all, got "
                f"{list(chosen)}."
            )
        return chosen

    @staticmethod
    def _complete(samples: MatchedSamples) -> int:
        """A sample with as many modalities as any has."""
        return 0 if samples.present is None else int(samples.present.sum(dim=1).argmax())


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

    samples: Samples

    def sound(self, number: int) -> Tensor:
        """`(1, samples)`."""
        sound = self.samples[number].inputs["audio"]
        assert isinstance(sound, Tensor)
        return sound

    def name(self, number: int) -> str:
        """Its id."""
        return self.samples[number].id


def _pixel_statistics(images: LabelledImages) -> dict[str, Any]:
    mean, std = images.statistics(value_range=(0, 255))
    return {"mean": mean, "std": std}
