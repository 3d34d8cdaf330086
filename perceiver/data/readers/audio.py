"""Recordings in files of any format that `soundfile` reads (wav, flac, ogg, mp3), one labelled sample each."""

import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data.loading.samples import Samples
from perceiver.modalities.preprocess import preprocess

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
"""What a file in a folder of recordings may be called; others there are an error."""
_BLOCK = 2**20  # samples per channel that are read at once
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # what programs that write to a pipe leave in the header of a WAV file


def audio_facts(*, sample_rate: int, audio_channels: int) -> dict[str, Any]:
    """The spec of a modality of recordings, as far as it is known before they were seen.

    Raises:
        ValueError: a sample rate or number of channels below 1.
    """
    for name, value in (("sample_rate", sample_rate), ("audio_channels", audio_channels)):
        if value < 1:
            raise ValueError(f"data.{name}: expected 1 or more, got {value}.")
    return {"kind": "audio", "shape": [audio_channels, None], "sample_rate": sample_rate}


class Recordings:
    """Labelled recordings, decoded when asked for: mixed down, resampled, otherwise as they are.

    A recording takes the way that raw samples take in `Perceiver.predict`. Stereo becomes mono (the mean of its
    channels) where `facts` say mono.

    Args:
        paths: the files.
        labels: their classes, from 0.
        ids: what identifies them in messages and tables.
        facts: the spec of the modality, see `audio_facts`.
        modality: its name.
        max_seconds: longer recordings are cut. None: never.
        random_start: cut at random, from torch's generator, for training; else the beginning is kept.
    """

    def __init__(
        self,
        *,
        paths: Sequence[Path],
        labels: Sequence[int],
        ids: Sequence[str],
        facts: Mapping[str, Any],
        modality: str = "audio",
        max_seconds: float | None = None,
        random_start: bool = False,
    ) -> None:
        if max_seconds is not None and not (math.isfinite(max_seconds) and max_seconds > 0):
            raise ValueError(f"data.max_seconds: expected a positive number or null, got {max_seconds}.")
        self.paths = list(paths)
        self.labels = list(labels)
        self.ids = list(ids)
        self.facts = dict(facts)
        self.modality = modality
        self.max_seconds = max_seconds
        self.random_start = random_start

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Its tensor is `(audio_channels, samples)`, float32, full scale at 1. Errors as in `read_recording`."""
        path = self.paths[index]
        raw = read_recording(path, max_seconds=self.max_seconds, random_start=self.random_start)
        sound = preprocess(raw, modality=self.facts, name=str(path))
        return Sample(inputs={self.modality: sound}, target=self.labels[index], id=self.ids[index])


def read_recording(
    path: str | os.PathLike[str] | BytesIO, *, max_seconds: float | None = None, random_start: bool = False
) -> tuple[NDArray[np.float32], int]:
    """The samples `(channels, samples)` of a file, or of its content, full scale at 1, and their rate in hertz.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no sound file, truncated, without samples, or with samples that are NaN or infinite.
    """
    num_frames, rate = check_recording(path)
    start, wanted = 0, num_frames
    if max_seconds is not None and num_frames > max_seconds * rate:
        wanted = max(1, round(max_seconds * rate))
        start = int(torch.randint(num_frames - wanted + 1, ())) if random_start else 0
    try:
        with soundfile.SoundFile(path) as file:
            if start:
                file.seek(start)
            # Memory grows with what is there, not with what the header claims.
            blocks = [file.read(min(wanted, _BLOCK), dtype="float32", always_2d=True)]
            while len(blocks[-1]) == _BLOCK and (left := wanted - _BLOCK * len(blocks)) > 0:
                blocks.append(file.read(min(left, _BLOCK), dtype="float32", always_2d=True))
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot be decoded: {error.error_string} {_REMEDY}") from error
    # The length of an MP3 file may be an estimate.
    if len(samples) < wanted and (len(samples) == 0 or not str(path).lower().endswith(".mp3")):
        raise ValueError(f"{path}: is truncated: expected {wanted} samples, got {len(samples)}. {_REMEDY}")
    if not np.isfinite(samples).all():
        count = int((~np.isfinite(samples)).sum())
        raise ValueError(f"{path}: {count} of {samples.size} samples are NaN or infinite. {_REMEDY}")
    return np.ascontiguousarray(samples.T), rate


def check_recording(path: str | os.PathLike[str] | BytesIO) -> tuple[int, int]:
    """Number of samples per channel and rate of a file, from its header, after comparing that with the file's size.

    Raises: as `read_recording`.
    """
    if isinstance(path, BytesIO):
        _check_riff_size(path, path.getvalue()[:8], size=path.getbuffer().nbytes)
    elif not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    else:
        with Path(path).open("rb") as file:
            _check_riff_size(path, file.read(8), size=Path(path).stat().st_size)
    try:
        facts = soundfile.info(path if isinstance(path, BytesIO) else str(path))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: is no sound file that can be read: {error.error_string} {_REMEDY}") from error
    if facts.frames < 1:
        raise ValueError(f"{path}: holds no samples. {_REMEDY}")
    if isinstance(path, BytesIO):
        path.seek(0)
    return int(facts.frames), int(facts.samplerate)


_REMEDY = "Replace the file with the original or remove it."


def _check_riff_size(path: object, header: bytes, *, size: int) -> None:
    """libsndfile reads what is left of a truncated WAV file without a word."""
    stated = int.from_bytes(header[4:], "little")
    # One byte of padding may be missing at the end of a complete file.
    if header[:4] == b"RIFF" and stated not in _UNKNOWN_SIZE and size + 1 < stated + 8:
        raise ValueError(f"{path}: is truncated: its header says {stated + 8} bytes, but there are {size}. {_REMEDY}")


def loudness(recordings: Samples, *, modality: str = "audio", at_most: int = 512) -> dict[str, list[float]]:
    """`mean` and `std` for the spec: 0 and, per channel, the root mean square of all samples, so that sound gets unit scale.

    Sound has no mean worth subtracting, and with 0 silence stays 0.

    Args:
        recordings: the training split.
        modality: its name.
        at_most: how many recordings are looked at; of more, evenly spaced ones.

    Raises:
        ValueError: silence everywhere.
    """
    step = max(1, math.ceil(len(recordings) / at_most))
    squares: Tensor | float = 0.0
    count = 0
    for index in range(0, len(recordings), step):
        sound = recordings[index].inputs[modality]
        assert isinstance(sound, Tensor)
        sound = sound.double()
        squares = squares + sound.square().sum(dim=1)
        count += sound.shape[1]
    rms = (torch.as_tensor(squares) / max(count, 1)).sqrt()
    if not bool((rms > 0).all()):
        raise ValueError("the training recordings are silent: nothing to normalise or to learn from.")
    return {"mean": [0.0] * len(rms), "std": rms.tolist()}
