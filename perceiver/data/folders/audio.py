"""Recordings of your own in a folder per class: `root/{train,val,test}/<class>/*`, decoded when a batch needs them."""

import os
from pathlib import Path
from typing import Any

import torch

from perceiver.data.loading.samples import Samples
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split
from perceiver.data.readers.audio import (
    SUFFIXES,
    Recordings,
    audio_facts,
    check_recording,
    loudness,
)
from perceiver.data.readers.folder_files import files_below, split_folder

SPLITS = ("train", "val", "test")


class AudioFolder(Source):
    """Trains on `root/train/<class>/*`, validates on `root/val/<class>/*` and tests on `root/test/<class>/*`.

    Recordings (wav, flac, ogg, mp3 and what else `soundfile` reads, also in folders below) may have any length and rate;
    they are decoded when a batch needs them, in the loader processes. The classes are the folders of `train`, in
    alphabetical order; the other splits may lack some, but have no others. Without `val`, some of the training recordings
    are for validation. Testing a checkpoint needs `test` alone. Batches hold `inputs["audio"]` `(B, audio_channels,
    samples)`, and `masks["audio"]` `(B, samples)` where lengths differ.

    Args:
        root: the folder that holds `train`, `test` and, maybe, `val`.
        sample_rate: in hertz; recordings of another rate are resampled.
        audio_channels: 1 mixes recordings down to mono (the mean of their channels); with another number all recordings must
            have as many.
        max_seconds: longer recordings are cut, in training at random, else to their beginning. None: never.
        validation_fraction: share of the training recordings, class by class, for validation; counts only without `val`.
        split_seed: which of them; not the training seed.
        check_files: read the headers of all files before training, some ten thousand in a second from a local disk.
        needs_test: `prepare` demands the test split; False where it is not there and not asked for.

    Raises:
        FileNotFoundError: a folder is absent or empty.
        ValueError: a file is no sound file or damaged, there is a single class, or a split has a class that training has
            not.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        sample_rate: int,
        audio_channels: int = 1,
        max_seconds: float | None = None,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        check_files: bool = True,
        needs_test: bool = True,
    ) -> None:
        super().__init__(
            facts={"audio": audio_facts(sample_rate=sample_rate, audio_channels=audio_channels)},
            split_seed=split_seed,
        )
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        self.root = Path(root)
        self.max_seconds = max_seconds
        self.validation_fraction = validation_fraction
        self.check_files = check_files
        self.needs_test = needs_test

    def prepare(self) -> None:
        """Lists all splits that are there and checks the headers of their files before any time is spent."""
        present = [split for split in SPLITS if split_folder(self.root, split).is_dir()]
        if not present or (self.needs_test and "test" not in present):
            raise FileNotFoundError(
                f"data.root: expected folders train and test in {self.root.resolve()}, each with a folder of recordings for "
                f"every class; there {'is no test' if present else 'are none'}. Set data.root or the environment variable "
                "PERCEIVER_DATA to the folder that holds them; with test=false no test recordings are needed."
            )
        for split in present:
            for paths in recordings_by_class(split_folder(self.root, split)).values():
                for path in paths if self.check_files else ():
                    check_recording(path)

    def read_training(self) -> tuple[Samples, Samples]:
        """The recordings of `train`, and those of `val` or some of `train`.

        Looks whether `test`, where it is there, has classes of its own.
        """
        names = list(recordings_by_class(self.root / "train"))
        if self.class_names is not None and names != self.class_names:
            raise ValueError(
                f"{self.root / 'train'}: expected folders of the stored classes {self.class_names}, got {names}."
            )
        self.class_names = names
        if (self.root / "test").is_dir():
            self._labelled("test")
        training = self._labelled("train")
        if split_folder(self.root, "val").is_dir():
            return self._recordings(training, training=True), self._recordings(self._labelled("val"), training=False)
        kept, taken = stratified_split(
            torch.tensor([label for _, label in training]),
            size=max(1, round(self.validation_fraction * len(training))),
            seed=self.split_seed,
            name="data.validation_fraction",
        )
        rest, validation = ([training[index] for index in chosen.tolist()] for chosen in (kept, taken))
        return self._recordings(rest, training=True), self._recordings(validation, training=False)

    def read_test(self) -> Samples:
        """The recordings of `test`."""
        return self._recordings(self._labelled("test"), training=False)

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        """Unit scale over some 500 of the training recordings."""
        return {"audio": loudness(training)}

    def _recordings(self, labelled: list[tuple[Path, int]], *, training: bool) -> Recordings:
        return Recordings(
            paths=[path for path, _ in labelled],
            labels=[label for _, label in labelled],
            ids=[path.relative_to(self.root).as_posix() for path, _ in labelled],
            facts=self.facts["audio"],
            max_seconds=self.max_seconds,
            random_start=training,
        )

    def _labelled(self, split: str) -> list[tuple[Path, int]]:
        assert self.class_names is not None
        labelled = []
        for name, paths in recordings_by_class(split_folder(self.root, split)).items():
            if name not in self.class_names:
                raise ValueError(
                    f"{self.root / split / name}: class {name!r} is none of the {len(self.class_names)} classes of "
                    f"training: {', '.join(self.class_names)}. Remove the folder, or train with recordings of this class."
                )
            labelled += [(path, self.class_names.index(name)) for path in paths]
        return labelled


def recordings_by_class(folder: Path) -> dict[str, list[Path]]:
    """The files below each folder in `folder`, both sorted by name. What begins with a dot is skipped.

    Raises:
        FileNotFoundError: there is no such folder, no folder in it, or one without recordings.
        ValueError: a file is called like no sound file.
    """
    classes = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise FileNotFoundError(f"data.root: expected a folder of recordings for every class in {folder}, got none.")
    found = {}
    for path in classes:
        files = sorted(path / file for file in files_below(path))
        if not files:
            raise FileNotFoundError(f"{path}: expected recordings of this class, got none. Remove the empty folder.")
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise ValueError(
                    f"{file}: expected a sound file, one of {', '.join(SUFFIXES)}. Convert it or move it elsewhere."
                )
        found[path.name] = files
    return found
