"""Recordings in any format that soundfile (wav, flac, ogg, mp3) or PyAV (m4a, mp4, webm) reads; a file is a labelled sample.

The content decides on the format, not the suffix.
"""

import math
import os
from collections.abc import Sequence
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceiver.data.loading.samples import Samples
from perceiver.data.readers.containers.demuxers import sound_demuxer_of
from perceiver.data.readers.containers.headers import (
    most_values,
    mp3_frames,
    ogg_ends,
    samples_chunk,
    with_open_length,
    with_stated_length,
)
from perceiver.data.readers.containers.sound import check_container_sound, read_container_sound
from perceiver.modalities.media.resampling import samples_of
from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.spec import ModalitySpec
from perceiver.runtime.progress import progress
from perceiver.samples.batch import Sample

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".w64", ".rf64", ".caf"),
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".aac", ".amr", ".wma", ".avi", ".flv"),
    *(".wv", ".spx", ".ogv", ".ogx", ".ts", ".mpg", ".mpeg"),
)
"""Allowed suffixes in a folder of recordings; other files are an error."""
_BLOCK = 2**20  # samples per channel and read


def audio_spec(*, sample_rate: int, audio_channels: int) -> dict[str, Any]:
    """Return the part of an audio modality's spec that is known before any recording is read.

    Raises:
        ValueError: a sample rate or number of channels below 1.
    """
    for name, value in (("sample_rate", sample_rate), ("audio_channels", audio_channels)):
        if value < 1:
            raise ValueError(f"data.{name}: expected 1 or more, got {value}.")
    return {"kind": "audio", "shape": [audio_channels, None], "sample_rate": sample_rate}


class Recordings:
    """Labelled recordings, decoded on access: mixed down and resampled, otherwise unchanged.

    Recordings are processed like raw samples in `Perceiver.predict`. Stereo becomes mono (the mean of its channels) if
    `spec` requires mono.

    Args:
        paths: the files.
        labels: class of each file, from 0; None for prediction.
        ids: ids for messages and tables.
        spec: spec of the modality, see `audio_spec`.
        modality: name of the modality.
        max_seconds: longer recordings are cut to this length. None: no limit.
        random_start: start at a random position, drawn from torch's generator, for training; otherwise at the beginning.
    """

    def __init__(
        self,
        *,
        paths: Sequence[Path],
        labels: Sequence[int] | None,
        ids: Sequence[str],
        spec: ModalitySpec,
        modality: str = "audio",
        max_seconds: float | None = None,
        random_start: bool = False,
    ) -> None:
        if max_seconds is not None and not (math.isfinite(max_seconds) and max_seconds > 0):
            raise ValueError(f"data.max_seconds: expected a positive number or null, got {max_seconds}.")
        self.paths = list(paths)
        self.labels = None if labels is None else list(labels)
        self.ids = list(ids)
        self.spec = dict(spec)
        self.modality = modality
        self.max_seconds = max_seconds
        self.random_start = random_start

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample: `(audio_channels, samples)`, float32, full scale 1. Errors as in `read_recording`."""
        path = self.paths[index]
        raw = read_recording(path, max_seconds=self.max_seconds, random_start=self.random_start)
        sound = preprocess(raw, spec=self.spec, name=str(path))
        target = None if self.labels is None else self.labels[index]
        return Sample(inputs={self.modality: sound}, target=target, id=self.ids[index])


def read_recording(
    path: str | os.PathLike[str] | BytesIO, *, max_seconds: float | None = None, random_start: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Return the samples `(channels, samples)` of a file or its content, full scale 1, and their rate in hertz.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the file has a format that requires PyAV, which is not installed.
        ValueError: the file is not a sound file, is truncated, has no samples, has samples that are NaN or infinite, or
            expands to far more samples than its size suggests.
    """
    if (container := _container(path)) is not None:
        samples, rate = read_container_sound(container, max_seconds=max_seconds, random_start=random_start)
        _check_finite(samples, path)
        return samples, rate
    source = _source(path)
    info = _info(source, path)
    if info.format == "MP3" and (stated := _with_stated_length(source)) is not None:
        source, info = stated, _info(stated, path)
    num_frames, rate = int(info.frames), int(info.samplerate)
    start, wanted = excerpt(num_frames, rate, max_seconds=max_seconds, random_start=random_start)
    most = most_values(len(source.getbuffer()) if isinstance(source, BytesIO) else os.path.getsize(source))
    try:
        with soundfile.SoundFile(source) as file:
            if start:
                file.seek(start)
            # Memory grows with the actual samples, not with the number that the header claims.
            blocks = [file.read(min(wanted, _BLOCK), dtype="float32", always_2d=True)]
            while len(blocks[-1]) == _BLOCK and (left := wanted - _BLOCK * len(blocks)) > 0:
                if _BLOCK * len(blocks) * file.channels > most:
                    raise ValueError(
                        f"{path}: expands to more than {most // file.channels:,} samples per channel, too many for a file "
                        "of its size. Set max_seconds, or cut it."
                    )
                blocks.append(file.read(min(left, _BLOCK), dtype="float32", always_2d=True))
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot be decoded: {error.error_string} {_REMEDY}") from error
    # An MP3 decoder may drop its delay.
    if len(samples) < wanted and (len(samples) < wanted - _MP3_DELAY or info.format != "MP3"):
        raise ValueError(f"{path}: is truncated: expected {wanted} samples, got {len(samples)}. {_REMEDY}")
    _check_finite(samples, path)
    return np.ascontiguousarray(samples.T), rate


def excerpt(count: int, rate: int, *, max_seconds: float | None, random_start: bool) -> tuple[int, int]:
    """Return the first sample and the number of samples to keep of `count`: all, or `max_seconds` of them.

    A random start is drawn from torch's generator.
    """
    if max_seconds is None or count <= max_seconds * rate:
        return 0, count
    wanted = samples_of(max_seconds, rate)
    return int(torch.randint(count - wanted + 1, ())) if random_start else 0, wanted


def check_recording(path: str | os.PathLike[str] | BytesIO) -> tuple[int, int]:
    """Return samples per channel and rate of a file from its header, after checking the header against the file size.

    The number is an estimate for MP3 files whose header does not state it, and for files that PyAV reads.

    Raises: as `read_recording`.
    """
    if (container := _container(path)) is not None:
        return check_container_sound(container)
    info = _info(_source(path), path)
    return int(info.frames), int(info.samplerate)


_REMEDY = "Replace the file with the original or remove it."
_MP3_DELAY = 2 * 1152  # samples


def _container(path: str | os.PathLike[str] | BytesIO) -> Path | BytesIO | None:
    """Return the file or its content if PyAV must decode it; None if libsndfile may read it."""
    if isinstance(path, BytesIO):
        return path if sound_demuxer_of(path) is not None else None
    file = Path(path)
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return file if sound_demuxer_of(stream) is not None else None


def _check_finite(samples: NDArray[np.float32], path: object) -> None:
    if not np.isfinite(samples).all():
        count = int((~np.isfinite(samples)).sum())
        raise ValueError(f"{path}: {count} of {samples.size} samples are NaN or infinite. {_REMEDY}")


def _info(source: str | BytesIO, path: object) -> Any:
    try:
        info = soundfile.info(source)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable sound file: {error.error_string} {_REMEDY}") from error
    if info.frames < 1:
        raise ValueError(f"{path}: has no samples. {_REMEDY}")
    if isinstance(source, BytesIO):
        source.seek(0)
    return info


def _source(path: str | os.PathLike[str] | BytesIO) -> str | BytesIO:
    """Return a source that libsndfile reads completely: the file, or its content with a corrected length in the header.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated, which libsndfile does not report.
    """
    if isinstance(path, BytesIO):
        return _corrected(path, path) or path
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}.")
    with Path(path).open("rb") as file:
        return _corrected(file, path) or str(path)


def _corrected(file: BufferedIOBase, path: object) -> BytesIO | None:
    """Return the content with a corrected header; None if the header needs no correction."""
    size = file.seek(0, os.SEEK_END)
    chunk = samples_chunk(file)
    file.seek(0)
    if chunk is not None:
        begins, claimed = chunk
        # A complete file may lack the padding byte at its end.
        if size + 1 < begins + claimed:
            raise ValueError(
                f"{path}: is truncated: its header says {begins + claimed} bytes, but there are {size}. {_REMEDY}"
            )
        if claimed == 0:
            content = file.read()
            file.seek(0)
            return with_open_length(content, begins)
        return None
    if file.read(4) == b"OggS" and not ogg_ends(file, size=size):
        raise ValueError(f"{path}: is truncated: its last page is not the end of the stream. {_REMEDY}")
    file.seek(0)
    return None


def _with_stated_length(source: str | BytesIO) -> BytesIO | None:
    """Return an MP3 file with its length in the header; None if it already states its length."""
    content = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
    first, count, stated = mp3_frames(content)
    return None if stated or count == 0 else with_stated_length(content, first, count)


def loudness(recordings: Samples, *, modality: str = "audio", at_most: int = 512) -> dict[str, list[float]]:
    """Return `mean` 0 and `std` for the spec, the root mean square per channel, so that sound has unit scale.

    Sound has no meaningful mean, and with a mean of 0 silence stays 0.

    Args:
        recordings: the training split.
        modality: name of the modality.
        at_most: number of recordings to measure, evenly spaced in larger splits.

    Raises:
        ValueError: all recordings are silent.
    """
    step = max(1, math.ceil(len(recordings) / at_most))
    squares: Tensor | float = 0.0
    count = 0
    chosen = range(0, len(recordings), step)
    for index in progress(chosen, total=len(chosen), title="statistics of the recordings", unit="recordings"):
        sound = recordings[index].inputs[modality]
        assert isinstance(sound, Tensor)
        sound = sound.double()
        squares = squares + sound.square().sum(dim=1)
        count += sound.shape[1]
    rms = (torch.as_tensor(squares) / max(count, 1)).sqrt()
    if not bool((rms > 0).all()):
        raise ValueError("all training recordings are silent and cannot be normalised.")
    return {"mean": [0.0] * len(rms), "std": rms.tolist()}
