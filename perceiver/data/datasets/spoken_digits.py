"""The Free Spoken Digit Dataset: 3,000 recordings of the digits 0 to 9 by six speakers, 0.15 to 2.3 seconds, 8 kHz mono.

Source: Z. Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0. The test split,
recordings 0 to 4 of every digit and speaker, is defined by its authors.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.hub import download_url_to_file

from perceiver.data.loading.folds import Fold
from perceiver.data.loading.groups import split_off
from perceiver.data.loading.samples import InMemory
from perceiver.data.loading.source import Source
from perceiver.data.readers.audio import Recordings, audio_spec, check_recording, loudness

ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NUM_DIGITS, NUM_RECORDINGS = 10, 50  # per speaker; per digit and speaker
NUM_TEST = 5  # the first recordings of each digit and speaker


@dataclass(frozen=True, kw_only=True)
class SpokenDigit:
    """One recording, named `{digit}_{speaker}_{index}.wav`."""

    digit: int
    speaker: str
    index: int

    @property
    def name(self) -> str:
        """Return the file name."""
        return f"{self.digit}_{self.speaker}_{self.index}.wav"


def recording_of(sample_id: str) -> SpokenDigit:
    """Return the recording of a sample's id, such as "spoken_digits/7_jackson_32"."""
    digit, speaker, index = sample_id.removeprefix("spoken_digits/").split("_")
    return SpokenDigit(digit=int(digit), speaker=speaker, index=int(index))


ALL = tuple(
    SpokenDigit(digit=digit, speaker=speaker, index=index)
    for digit in range(NUM_DIGITS)
    for speaker in SPEAKERS
    for index in range(NUM_RECORDINGS)
)


class SpokenDigits(Source):
    """Spoken digits with the official test split; validation recordings are split off by digit and speaker.

    Recordings are decoded once, in `setup`, into 42 MB of memory. Batches hold `inputs["audio"]` `(B, 1, samples)`, padded
    to their longest recording, and `masks["audio"]` `(B, samples)`.

    Args:
        root: folder with `free-spoken-digit-dataset/recordings/`.
        sample_rate: sample rate in hertz; recordings (8,000 Hz) are resampled if it differs.
        validation_size: number of validation recordings, split off the recordings outside the test split.
        split_seed: seed of this split; not the training seed.
        held_out_speaker: test on all recordings of this speaker; train and validate on the other speakers. None: the
            official split, with every speaker in every split.
        folds: number of folds of a cross-validation of the recordings outside the test split. None: no cross-validation.
        fold: number of the fold that is the test split, from 0; the official test split and the held-out speaker are not
            used then.
        group: "speaker": no speaker is in two splits; needs `folds` or `held_out_speaker`, since the official test split has
            every speaker. None: speakers are divided.
        download: download the recordings if files are absent. False: absent files are an error.
        url: URL of a tar archive with the recordings in a folder `recordings`.

    Raises:
        FileNotFoundError: if files are absent and `download` is false or fails.
        ValueError: for a damaged or superfluous file, an unknown `held_out_speaker`, or a `validation_size` that leaves no
            training recordings.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        sample_rate: int = 8000,
        validation_size: int = 300,
        split_seed: int = 0,
        held_out_speaker: str | None = None,
        folds: int | None = None,
        fold: int | None = None,
        group: str | None = None,
        download: bool = True,
        url: str = ARCHIVE,
    ) -> None:
        super().__init__(
            specs={"audio": audio_spec(sample_rate=sample_rate, audio_channels=1)},
            class_names=[str(digit) for digit in range(NUM_DIGITS)],
            split_seed=split_seed,
            fold=Fold.chosen(folds=folds, fold=fold),
        )
        if group not in (None, "speaker"):
            raise ValueError(f"data.group: expected speaker or null, got {group!r}.")
        if group is not None and folds is None and held_out_speaker is None:
            raise ValueError(
                "data.group=speaker: expected data.folds or data.held_out_speaker, too, because the official test split has "
                "every speaker."
            )
        if held_out_speaker is not None and held_out_speaker not in SPEAKERS:
            raise ValueError(
                f"data.held_out_speaker: expected one of {', '.join(SPEAKERS)}, or null, got {held_out_speaker!r}."
            )
        self.folder = Path(root) / "free-spoken-digit-dataset" / "recordings"
        self.validation_size = validation_size
        self.held_out_speaker = held_out_speaker
        self.group = group
        self.download = download
        self.url = url

    def prepare(self) -> None:
        """Download absent files, and check names and headers of all files early."""
        missing = _missing(self.folder)
        if missing and not self.download:
            raise FileNotFoundError(self._absent(missing, "they are missing and data.download is false"))
        if missing:
            try:
                download_recordings(self.folder, url=self.url)
            except (OSError, RuntimeError, EOFError, ValueError, tarfile.TarError) as error:
                raise FileNotFoundError(self._absent(missing, f"downloading them failed: {error}")) from error
        check_recordings(self.folder)

    def read_training(self) -> tuple[InMemory, InMemory]:
        """Return 2,400 and 300 recordings by default."""
        digits, _ = self._outside_fold()
        kept, taken = split_off(
            self._strata(digits),
            size=self.validation_size,
            seed=self.split_seed,
            name="data.validation_size",
            groups=self._groups(digits),
        )
        return self._read(digits[index] for index in kept), self._read(digits[index] for index in taken)

    def read_test(self) -> InMemory:
        """Return the 300 official test recordings, the 500 recordings of the held-out speaker, or those of the fold."""
        return self._read(self._outside_fold()[1] if self.fold else [one for one in ALL if self._is_test(one)])

    def statistics(self, training: InMemory) -> dict[str, dict[str, Any]]:
        """Return unit scale over all training recordings."""
        return {"audio": loudness(training, at_most=len(training))}

    def _outside_fold(self) -> tuple[list[SpokenDigit], list[SpokenDigit]]:
        """Return the recordings outside the test split: those outside the fold, and those in it."""
        digits = [one for one in ALL if not self._is_test(one)]
        if self.fold is None:
            return digits, []
        kept, taken = self.fold.split(
            self._strata(digits), seed=self.split_seed, name="the spoken digits", groups=self._groups(digits)
        )
        return [digits[index] for index in kept], [digits[index] for index in taken]

    def _strata(self, digits: Sequence[SpokenDigit]) -> Int[Tensor, "recordings"]:
        """Return digit and speaker as one number, or the digit alone if speakers are not divided."""
        if self.group is not None:
            return torch.tensor([one.digit for one in digits])
        return torch.tensor([one.digit * len(SPEAKERS) + SPEAKERS.index(one.speaker) for one in digits])

    def _groups(self, digits: Sequence[SpokenDigit]) -> list[str] | None:
        return None if self.group is None else [one.speaker for one in digits]

    def _is_test(self, one: SpokenDigit) -> bool:
        return one.index < NUM_TEST if self.held_out_speaker is None else one.speaker == self.held_out_speaker

    def _read(self, digits: Iterable[SpokenDigit]) -> InMemory:
        chosen = list(digits)
        return InMemory(
            Recordings(
                paths=[self.folder / one.name for one in chosen],
                labels=[one.digit for one in chosen],
                ids=[f"spoken_digits/{one.name.removesuffix('.wav')}" for one in chosen],
                spec=self.specs["audio"],
            )
        )

    def _absent(self, missing: list[str], reason: str) -> str:
        return (
            f"data.root: expected {len(ALL)} recordings of the Free Spoken Digit Dataset in {self.folder.resolve()}, "
            f"but {_listed(missing)} are not available: {reason}. Set data.root or the environment variable "
            "PERCEIVER_DATA to the folder that holds free-spoken-digit-dataset/recordings, or run with "
            "data.download=true, a network connection and free disk space."
        )


def check_recordings(folder: Path) -> None:
    """Check names and headers of all files.

    Raises:
        FileNotFoundError: if recordings are absent.
        ValueError: for a damaged recording, or files that are not among the 3,000 of the release.
    """
    if missing := _missing(folder):
        raise FileNotFoundError(f"{folder}: expected {len(ALL)} recordings, but {_listed(missing)} are absent.")
    expected = {one.name for one in ALL}
    if superfluous := sorted(path.name for path in folder.glob("*.wav") if path.name not in expected):
        raise ValueError(
            f"{folder}: expected the {len(ALL)} recordings of release 1.0.10 only, got also {_listed(superfluous)}. "
            "Move them elsewhere; data=audio_folder reads your own recordings."
        )
    for name in sorted(expected):
        check_recording(folder / name)


def download_recordings(folder: Path, *, url: str) -> None:
    """Download and check the archive, then move absent files into `folder`; an interruption leaves no partial files.

    Raises:
        OSError, RuntimeError, EOFError, ValueError, tarfile.TarError: if the archive is unavailable or invalid.
    """
    nearby = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=nearby, prefix=".download-") as scratch:
        archive, fetched = Path(scratch) / "archive.tar.gz", Path(scratch) / "recordings"
        fetched.mkdir()
        download_url_to_file(url, str(archive), progress=False)
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                source = tar.extractfile(member) if path.parent.name == "recordings" and path.suffix == ".wav" else None
                if source is not None:
                    with source, (fetched / path.name).open("wb") as target:
                        shutil.copyfileobj(source, target)
        check_recordings(fetched)
        folder.mkdir(parents=True, exist_ok=True)
        for path_fetched in fetched.iterdir():
            if not (folder / path_fetched.name).exists():
                os.replace(path_fetched, folder / path_fetched.name)


def _missing(folder: Path) -> list[str]:
    present = {path.name for path in folder.glob("*.wav")}
    return [one.name for one in ALL if one.name not in present]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
