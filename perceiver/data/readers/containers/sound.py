"""Sound that PyAV decodes: the sound track of MP4, Matroska and other containers, read without memory for the rest."""

import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perceiver.data.readers.containers.demuxers import opened
from perceiver.data.readers.containers.headers import most_values
from perceiver.modalities.media.resampling import samples_of

_REMEDY = "Replace the file with the original or remove it."
_PURPOSE = "sound files of this format"
_HIGHEST_RATE, _MOST_CHANNELS = 2_000_000, 64
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}


def read_container_sound(
    file: Path | io.BytesIO, *, max_seconds: float | None = None, random_start: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Return the samples `(channels, samples)` of the first sound track, full scale 1, and their rate in hertz.

    Args:
        file: a file, or its content.
        max_seconds: length of the part to return, if the track is longer. None: the whole track.
        random_start: start at a random position, drawn from torch's generator; otherwise at the beginning.

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the file is truncated or damaged, or has no sound.
    """
    with _sound_of(file) as (container, stream):
        blocks = _blocks(container, stream, file)
        first, rate = next(blocks, (None, 0))
        if first is None:
            raise ValueError(f"{file}: contains no samples. {_REMEDY}")
        most = most_values(_size(file)) // len(first)
        wanted = most if max_seconds is None else min(most, samples_of(max_seconds, rate))
        room = max(0, _estimated_samples(container, stream, rate) - wanted)
        start = int(torch.randint(room + 1, ())) if random_start and room else 0
        kept, begins, ends = deque([first]), 0, first.shape[1]
        for block, _ in blocks if ends < start + wanted else ():
            kept.append(block)
            ends += block.shape[1]
            # The number of samples is an estimate: if the track ends before the window does, its last samples are returned.
            while begins + kept[0].shape[1] <= min(start, ends - wanted):
                begins += kept.popleft().shape[1]
            if ends >= start + wanted:
                break
        if max_seconds is None and ends >= most:
            raise ValueError(
                f"{file}: expands to more than {most:,} samples per channel, which is too much for a file of "
                f"{_size(file):,} bytes. Set max_seconds, or cut it."
            )
    offset = max(0, min(start, ends - wanted)) - begins
    return np.concatenate(kept, axis=1)[:, offset : offset + wanted], rate


def check_container_sound(file: Path | io.BytesIO) -> tuple[int, int]:
    """Return the approximate number of samples per channel, and the rate, from the header.

    Errors as in `read_container_sound`.
    """
    with _sound_of(file) as (container, stream):
        rate = int(stream.codec_context.sample_rate or 0)
        return _estimated_samples(container, stream, rate), rate


class _sound_of:
    """Opens the first sound track, and turns the errors of PyAV into those of this module, also in the block."""

    def __init__(self, file: Path | io.BytesIO) -> None:
        self.file = file
        self._opened = opened(file, purpose=_PURPOSE)

    def __enter__(self) -> tuple[Any, Any]:
        try:
            container = self._opened.__enter__()
        except ImportError as error:
            raise ImportError(f"{self.file}: {error}") from error
        except Exception as error:
            raise self._damaged(error) from (None if isinstance(error, MemoryError) else error)
        if not container.streams.audio:
            self._opened.__exit__(None, None, None)
            raise ValueError(f"{self.file}: has no sound track.")
        return container, container.streams.audio[0]

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._opened.__exit__(None, None, None)
        # PyAV's errors derive from ValueError and OSError, but do not name the file.
        if isinstance(error, Exception) and type(error) is not ValueError:
            raise self._damaged(error) from (None if isinstance(error, MemoryError) else error)

    def _damaged(self, error: Exception) -> ValueError:
        described = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError):
            # FFmpeg refuses it before it allocates anything.
            described = "it claims more memory than FFmpeg allows"
        return ValueError(f"{self.file}: cannot be decoded: {described.rstrip('.')}. {_REMEDY}")


def _blocks(container: Any, stream: Any, file: object) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield decoded samples `(channels, samples)`, and their rate."""
    known: tuple[int, int] | None = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"{file}: is damaged or truncated: a packet of its sound track is not whole. {_REMEDY}")
        for frame in packet.decode():
            found = (frame.layout.nb_channels, int(frame.sample_rate))
            if known is None and not (1 <= found[0] <= _MOST_CHANNELS and 1 <= found[1] <= _HIGHEST_RATE):
                raise ValueError(f"{file}: claims {found[0]} channels and {found[1]} samples per second. {_REMEDY}")
            if known not in (None, found):
                raise ValueError(f"{file}: changes from {known} to {found} channels and hertz. Convert it.")
            known = found
            block = _samples(frame)
            if block.shape[1]:
                yield block, found[1]


def _samples(frame: Any) -> NDArray[np.float32]:
    name, channels = str(frame.format.name), frame.layout.nb_channels
    values = frame.to_ndarray()
    if not name.endswith("p"):  # channels are interleaved
        values = values.reshape(-1, channels).T
    scale = _FULL_SCALE[name.removesuffix("p")]
    values = values.astype(np.float32) - (scale if name.startswith("u8") else 0.0)
    return np.ascontiguousarray(values / scale if scale != 1 else values, dtype=np.float32)


def _estimated_samples(container: Any, stream: Any, rate: int) -> int:
    if stream.duration is not None:
        return max(1, round(float(stream.duration * stream.time_base) * rate))
    return max(1, round((container.duration or 0) / 1e6 * rate))


def _size(file: Path | io.BytesIO) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
