"""Your own recordings in a folder per class: `root/{train,val,test}/<class>/*`, decoded per batch."""

import os
from pathlib import Path
from typing import Any

import torch

from perceiver.data.folders.bad_files import BadFiles
from perceiver.data.loading.folds import Fold
from perceiver.data.loading.groups import groups_of_paths, require_undivided, split_off
from perceiver.data.loading.samples import Samples
from perceiver.data.loading.source import Source
from perceiver.data.readers.audio import (
    SUFFIXES,
    Recordings,
    audio_spec,
    check_recording,
    loudness,
)
from perceiver.data.readers.folder_files import files_below, is_flat, report_left_out, split_folder

SPLITS = ("train", "val", "test")


class AudioFolder(Source):
    """Trains on `root/train/<class>/*`, validates on `root/val/<class>/*` and tests on `root/test/<class>/*`.

    Recordings (wav, flac, ogg, mp3 and all other formats of soundfile; with PyAV also m4a, mp4, webm and others; also in
    nested folders) may have any length and rate. They are decoded per batch, in the loader processes. The classes are the
    folders of `train`, in alphabetical order; the other splits may lack some, but have no others. Without `val`, some of
    the training recordings are used for validation. Testing a checkpoint needs `test` alone. For prediction, `root` may
    also hold recordings without splits and classes, in any folders. Batches hold `inputs["audio"]` `(B, audio_channels,
    samples)`, and `masks["audio"]` `(B, samples)` if lengths differ.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        sample_rate: in hertz; recordings of another rate are resampled.
        audio_channels: 1 mixes recordings down to mono (the mean of their channels); otherwise all recordings must have this
            number of channels.
        max_seconds: longer recordings are cut, at a random position in training, otherwise to their beginning. None: no
            limit.
        validation_fraction: share of the training recordings, per class, for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        folds: number of folds of a cross-validation of the recordings in `train` and `val`. None: no cross-validation.
        fold: number of the fold that is the test split, from 0; `test` is not used then, and validation recordings are split
            off the other folds.
        group: regular expression, searched in the path of a recording below `root`; what its parentheses match names the
            group, such as a speaker, that is in a single split. None: recordings are split one by one.
        check_files: read the headers of all files before training, about ten thousand per second from a local disk.
        on_bad_row: "error" stops at the first damaged recording. "skip" decodes everything once before it is used, and
            leaves out and names damaged recordings and other files.
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
        folds: int | None = None,
        fold: int | None = None,
        group: str | None = None,
        check_files: bool = True,
        on_bad_row: str = "error",
        needs_test: bool = True,
    ) -> None:
        super().__init__(
            specs={"audio": audio_spec(sample_rate=sample_rate, audio_channels=audio_channels)},
            split_seed=split_seed,
            fold=Fold.chosen(folds=folds, fold=fold),
        )
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        self.root = Path(root)
        self.max_seconds = max_seconds
        self.validation_fraction = validation_fraction
        self.group = group
        self.check_files = check_files
        self.needs_test = needs_test
        self.bad_files = BadFiles(on_bad_row)

    @property
    def left_out(self) -> list[str]:
        """See `Source.left_out`."""
        return self.bad_files.reasons

    def prepare(self) -> None:
        """List all existing splits and check the headers of their files before training starts."""
        if self.spec is not None and is_flat(self.root):
            self._check(self._flat_paths())
            return
        present = [split for split in SPLITS if split_folder(self.root, split).is_dir()]
        if not present or (self.needs_test and self.fold is None and "test" not in present):
            raise FileNotFoundError(
                f"data.root: expected folders train and test in {self.root.resolve()}, each with one folder of "
                f"recordings per class; {'test is missing' if present else 'they are missing'}. Set data.root or the "
                "environment variable PERCEIVER_DATA to the folder that holds them; with test=false no test "
                "recordings are needed."
            )
        for split in present:
            for paths in self._by_class(split).values():
                self._check(paths)

    def read_training(self) -> tuple[Samples, Samples]:
        """Return the recordings of `train`, and those of `val` or some of `train`; with folds, those outside the fold.

        Check that `test`, if it exists, has no unknown classes.
        """
        names = list(self._by_class("train"))
        if self.class_names is not None and names != self.class_names:
            raise ValueError(
                f"{self.root / 'train'}: expected folders of the stored classes {self.class_names}, got {names}."
            )
        self.class_names = names
        if (self.root / "test").is_dir():
            self._labelled("test")
        training = self._labelled("train") if self.fold is None else self._fold_split()[0]
        if self.fold is None and split_folder(self.root, "val").is_dir():
            validation = self._labelled("val")
            self._require_undivided(train=training, val=validation)
            training, validation = self._usable(training, "train"), self._usable(validation, "val")
            return self._recordings(training, training=True), self._recordings(validation, training=False)
        self._require_undivided(train=training)
        kept, taken = split_off(
            torch.tensor([label for _, label in training]),
            size=max(1, round(self.validation_fraction * len(training))),
            seed=self.split_seed,
            name="data.validation_fraction",
            groups=self._groups(training),
        )
        rest, validation = (
            self._usable([training[index] for index in chosen.tolist()], "train", part=part)
            for chosen, part in ((kept, ""), (taken, "validation"))
        )
        return self._recordings(rest, training=True), self._recordings(validation, training=False)

    def read_test(self) -> Samples:
        """Return the recordings of `test`, or those of the fold."""
        if self.fold is None:
            labelled = self._usable(self._labelled("test"), "test")
        else:
            labelled = self._usable(self._fold_split()[1], "train", part="test")
        return self._recordings(labelled, training=False)

    def read_prediction(self) -> Samples | None:
        """Return all recordings of a folder without splits; None: the test split."""
        if not is_flat(self.root):
            return None
        found = self._recordings([(path, 0) for path in self._flat_paths()], training=False)
        found.labels = None
        index = self.bad_files.usable(found, num_workers=self.num_workers, where=self.root).tolist()
        found.paths, found.ids = [found.paths[number] for number in index], [found.ids[number] for number in index]
        return found

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        """Return the statistics that give unit scale, from about 500 training recordings."""
        return {"audio": loudness(training)}

    def _check(self, paths: list[Path]) -> None:
        # With "skip", damaged files are found when they are decoded.
        for path in paths if self.check_files and not self.bad_files.skip else ():
            check_recording(path)

    def _fold_split(self) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
        """Return the recordings of `train` and `val` outside the fold, and those in it, damaged ones included."""
        assert self.fold is not None
        labelled = self._labelled("train")
        if split_folder(self.root, "val").is_dir():
            labelled += self._labelled("val")
        kept, taken = self.fold.split(
            torch.tensor([label for _, label in labelled]),
            seed=self.split_seed,
            name=self.root,
            groups=self._groups(labelled),
        )
        return [labelled[index] for index in kept], [labelled[index] for index in taken]

    def _groups(self, labelled: list[tuple[Path, int]]) -> list[str] | None:
        if self.group is None:
            return None
        return groups_of_paths([path.relative_to(self.root).as_posix() for path, _ in labelled], self.group)

    def _require_undivided(self, **splits: list[tuple[Path, int]]) -> None:
        """Check that no group is in two folders of splits."""
        if self.group is None or self.fold is not None:
            return
        if (self.root / "test").is_dir():
            splits["test"] = self._labelled("test")
        require_undivided({split: self._groups(files) or [] for split, files in splits.items()}, name=self.root)

    def _by_class(self, split: str) -> dict[str, list[Path]]:
        return recordings_by_class(split_folder(self.root, split), skip=self.bad_files.skip)

    def _flat_paths(self) -> list[Path]:
        return _sound_files(self.root, skip=True, kind="recordings")

    def _usable(self, labelled: list[tuple[Path, int]], folder: str, *, part: str = "") -> list[tuple[Path, int]]:
        """Return the recordings that can be read; `part` names a split that shares the folder with the training split."""
        where = split_folder(self.root, folder) if self.fold is None else self.root
        recordings = self._recordings(labelled, training=False)
        index = self.bad_files.usable(recordings, num_workers=self.num_workers, where=where, part=part)
        return [labelled[number] for number in index.tolist()]

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
        for name, paths in self._by_class(split).items():
            if name not in self.class_names:
                raise ValueError(
                    f"{self.root / split / name}: class {name!r} is not one of the {len(self.class_names)} training "
                    f"classes: {', '.join(self.class_names)}. Remove the folder, or train with recordings of this "
                    "class."
                )
            labelled += [(path, self.class_names.index(name)) for path in paths]
        return labelled


def recordings_by_class(folder: Path, *, skip: bool = False) -> dict[str, list[Path]]:
    """Return the files below each folder in `folder`, both sorted by name. Names that begin with a dot are skipped.

    Args:
        folder: folder of a split.
        skip: leave out and log files without the suffix of a sound file.

    Raises:
        FileNotFoundError: the folder is missing, has no folders, or a folder in it has no recordings.
        ValueError: without `skip`, a file does not have the suffix of a sound file.
    """
    classes = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise FileNotFoundError(f"data.root: expected one folder of recordings per class in {folder}, got none.")
    return {path.name: _sound_files(path, skip=skip, kind="recordings of this class") for path in classes}


def _sound_files(folder: Path, *, skip: bool, kind: str) -> list[Path]:
    own: list[Path] = []
    others: list[str] = []
    for file in sorted(folder / name for name in files_below(folder)):
        if file.suffix.lower() in SUFFIXES:
            own.append(file)
        elif skip:
            others.append(file.relative_to(folder).as_posix())
        else:
            raise ValueError(
                f"{file}: expected a sound file, one of {', '.join(SUFFIXES)}. Convert it or move it elsewhere; "
                "data.on_bad_row=skip leaves such files out."
            )
    report_left_out(others, folder=folder, kind="recordings")
    if not own:
        raise FileNotFoundError(f"{folder}: expected {kind}, got none. Add some, or remove the empty folder.")
    return own
