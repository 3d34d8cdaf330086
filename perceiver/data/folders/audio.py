"""Your own recordings in a folder per class: `root/{train,val,test}/<class>/*`, decoded per batch."""

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
    audio_spec,
    check_recording,
    loudness,
)
from perceiver.data.readers.folder_files import files_below, split_folder

SPLITS = ("train", "val", "test")


class AudioFolder(Source):
    """Trains on `root/train/<class>/*`, validates on `root/val/<class>/*` and tests on `root/test/<class>/*`.

    Recordings (wav, flac, ogg, mp3 and all other formats of `soundfile`, also in nested folders) may have any length and
    rate. They are decoded per batch, in the loader processes. The classes are the folders of `train`, in alphabetical
    order; the other splits may lack some, but have no others. Without `val`, some of the training recordings are used for
    validation. Testing a checkpoint needs `test` alone. Batches hold `inputs["audio"]` `(B, audio_channels, samples)`, and
    `masks["audio"]` `(B, samples)` if lengths differ.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        sample_rate: in hertz; recordings of another rate are resampled.
        audio_channels: 1 mixes recordings down to mono (the mean of their channels); otherwise all recordings must have this
            number of channels.
        max_seconds: longer recordings are cut, at a random position in training, otherwise to their beginning. None: no
            limit.
        validation_fraction: share of the training recordings, per class, for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        check_files: read the headers of all files before training, about ten thousand per second from a local disk.
        needs_test: whether `prepare` requires the test split.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: a file is damaged or not a sound file, there is a single class, or a split has a class unseen in
            training.
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
            specs={"audio": audio_spec(sample_rate=sample_rate, audio_channels=audio_channels)},
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
        """List all existing splits and check the headers of their files before training starts."""
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
        """Return the recordings of `train`, and those of `val` or some of `train`.

        Check that `test`, if it exists, has no unknown classes.
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
        """Return the recordings of `test`."""
        return self._recordings(self._labelled("test"), training=False)

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        """Return the statistics that give unit scale, from about 500 training recordings."""
        return {"audio": loudness(training)}

    def _recordings(self, labelled: list[tuple[Path, int]], *, training: bool) -> Recordings:
        return Recordings(
            paths=[path for path, _ in labelled],
            labels=[label for _, label in labelled],
            ids=[path.relative_to(self.root).as_posix() for path, _ in labelled],
            spec=self.specs["audio"],
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
    """Return the files below each folder in `folder`, both sorted by name. Names that begin with a dot are skipped.

    Raises:
        FileNotFoundError: the folder is missing, has no folders, or a folder in it has no recordings.
        ValueError: a file does not have the suffix of a sound file.
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
