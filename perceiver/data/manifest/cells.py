"""From the cell of a manifest, a path or a value, to a raw sample that `perceiver.modalities.preprocess` takes."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceiver.data.manifest.content import FileContent
from perceiver.data.manifest.series import has_times, read_series, series_names
from perceiver.data.manifest.video import check_video, frame_files, read_video
from perceiver.data.readers.array_files import read_array
from perceiver.data.readers.audio import check_recording, read_recording
from perceiver.data.readers.bounded_json import parse_json
from perceiver.data.readers.delimited import decoded
from perceiver.data.readers.images import read_image
from perceiver.data.readers.numbers import read_numbers


class Read(Protocol):
    """Reads a cell.

    Raises OSError or ValueError where it holds, or names, nothing of its kind; the message need not name row and column.
    """

    def __call__(self, value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
        """The raw sample.

        Args:
            value: of the cell, not missing; a `FileContent` in place of a path, and a list of these in place of a folder.
            facts: the spec of the modality as far as it is known.
            folder: what paths are relative to; None: the cell must not name a file.
            training: choose at random what is random in training.
        """
        ...


def read_cell(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool = False) -> Any:
    """The raw sample that a cell holds or names. Errors as in `Read`."""
    return _READERS.get(facts["kind"], _array)(value, facts=facts, folder=folder, training=training)


def check_cell(value: Any, *, facts: Mapping[str, Any], folder: Path | None) -> None:
    """Looks at a cell, and the head of the file that it names, without decoding that. Errors as in `Read`."""
    kind = facts["kind"]
    if kind in ("table", "text") and not facts.get("files"):
        return
    if kind == "timeseries":
        names_of_series(value, facts=facts, folder=folder)
        return
    if not isinstance(value, str) or value.lstrip()[:1] in ("[", "{"):
        read_cell(value, facts=facts, folder=folder)
        return
    path = _existing(value, folder, directory=kind == "video")
    if kind == "image":
        try:
            with Image.open(path):
                pass
        except Exception as error:
            raise ValueError(f"{path}: no image that can be read ({type(error).__name__}: {error}).") from error
    elif kind == "audio":
        check_recording(path)
    elif kind == "video":
        check_video(path)


def files_of_cell(value: Any, *, facts: Mapping[str, Any], folder: Path) -> list[Path] | None:
    """The files that a cell names: one, or the frames of a video in a folder; None: it holds a value.

    Raises:
        OSError: there is no such file.
        ValueError: a folder without images.
    """
    kind = facts["kind"]
    if not isinstance(value, str) or kind == "table" or (kind == "text" and not facts.get("files")):
        return None
    if kind not in ("text", "video") and value.lstrip()[:1] == "[":
        return None
    if kind == "timeseries" and value.lstrip()[:1] == "{":
        return None
    path = _existing(value, folder, directory=kind == "video")
    return frame_files(path, num_frames=facts["shape"][1]) if path.is_dir() else [path]


def is_path_of_file(value: Any, folder: Path) -> bool:
    """Whether a cell is the path of a file that is there."""
    try:
        return isinstance(value, str) and _existing(value, folder).is_file()
    except (OSError, ValueError):
        return False


def images_in_cell(value: Any, *, facts: Mapping[str, Any], folder: Path) -> list[Path | io.BytesIO]:
    """The files or contents of images in a cell of images or videos; nothing where there are none that can be found."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return [io.BytesIO(value)]
    try:
        return list(files_of_cell(value, facts=facts, folder=folder) or ())
    except (OSError, ValueError):
        return []


def names_of_series(value: Any, *, facts: Mapping[str, Any], folder: Path | None) -> list[str]:
    """The names of the values in the cell of a time series. Errors as in `Read`."""
    return series_names(_series_source(value, folder), facts=facts)


def series_has_times(value: Any, *, facts: Mapping[str, Any], folder: Path | None) -> bool:
    """Whether the time series in a cell has times of its own. Errors as in `Read`."""
    return has_times(_series_source(value, folder), facts=facts)


def array_of(value: Any, folder: Path | None) -> NDArray[Any]:
    """Numbers, from a list, its JSON text, or a file: `.npy`, or text with spaces, tabs or commas between them.

    Raises:
        OSError, ValueError: it is none, or lists in it differ in length.
    """
    if isinstance(value, FileContent):
        return _numbers_of_file(value)
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = from_json(value)
        else:
            path = _existing(value, folder)
            return _numbers_of_file(path)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"expected numbers in lists of equal length: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, or the path of a file with numbers, got {shortened(value)}.")
    return array


def from_json(text: str) -> Any:
    """What a JSON text in a cell means."""
    try:
        # Without a bound of its own: what follows takes arrays of a few dimensions.
        return parse_json(text, max_depth=None)
    except ValueError as error:
        raise ValueError(f"expected a path, or JSON, got {shortened(text)}: {error}") from None


def _image(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # images in Parquet files as the Hugging Face hub has them
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, FileContent):
        return read_image(value, deep_range=facts.get("deep_range"))
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return read_image(_existing(value, folder), deep_range=facts.get("deep_range"))
    pixels = array_of(value, folder)
    if pixels.dtype.kind in "iu":
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
            raise ValueError(f"expected pixels from 0 to 255, got {pixels.min()} to {pixels.max()}.")
    else:
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("expected whole numbers from 0 to 255, or fractions from 0 to 1 as pixels.")
        pixels = (pixels * 255).round()
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)) or 0 in pixels.shape:
        raise ValueError(f"expected pixels (height, width) or (height, width, channels), got {pixels.shape}.")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels, dtype=np.uint8))


def _decoded(content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image
    except Exception as error:
        raise ValueError(f"the bytes are no intact image ({type(error).__name__}: {error}).") from error


def _audio(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    if isinstance(value, FileContent):
        return read_recording(value, max_seconds=facts.get("max_seconds"), random_start=training)
    if isinstance(value, str) and not value.lstrip().startswith("["):
        path = _existing(value, folder)
        return read_recording(path, max_seconds=facts.get("max_seconds"), random_start=training)
    samples = array_of(value, folder)
    if samples.ndim not in (1, 2) or samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError(f"expected finite samples (samples,) or (channels, samples), got shape {samples.shape}.")
    # Specs of version 0.1 hold no width: integers were not scaled then.
    return samples if samples.dtype.kind in "iu" and "integer_bits" in facts else samples.astype(np.float32)


def _text(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    if isinstance(value, list | np.ndarray):
        return array_of(value, folder)
    if not facts.get("files"):
        return value if isinstance(value, str) else str(value)
    path = value if isinstance(value, FileContent) else _existing(str(value), folder)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    if not text.strip():
        raise ValueError(f"{path}: is empty.")
    return text


def _series(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    return read_series(_series_source(value, folder), facts=facts)


def _series_source(value: Any, folder: Path | None) -> Any:
    if not isinstance(value, str):
        return value
    return from_json(value) if value.lstrip()[:1] in ("[", "{") else _existing(value, folder)


def _video(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    if isinstance(value, FileContent) or (isinstance(value, list) and value and isinstance(value[0], FileContent)):
        return read_video(value, num_frames=facts["shape"][1], deep_range=facts.get("deep_range"))
    if not isinstance(value, str):
        raise ValueError(f"expected the path of a video, got {shortened(value)}.")
    path = _existing(value, folder, directory=True)
    return read_video(path, num_frames=facts["shape"][1], deep_range=facts.get("deep_range"))


def _array(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    """Points, and kinds that are not known here."""
    array = array_of(value, folder)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers, not none, got shape {array.shape}.")
    if facts["kind"] == "points" and array.ndim != 2:
        raise ValueError(f"expected points, a list of coordinates each, got numbers of shape {array.shape}.")
    return array


def _table(value: Any, *, facts: Mapping[str, Any], folder: Path | None, training: bool) -> Any:
    """As it is."""
    return value


_READERS: dict[str, Read] = {
    "image": _image,
    "audio": _audio,
    "text": _text,
    "timeseries": _series,
    "video": _video,
    "table": _table,
}


_LONGEST_PATH = 1024  # characters; what is longer is content in base 64, for instance


def _existing(value: str, folder: Path | None, *, directory: bool = False) -> Path:
    if folder is None:
        raise ValueError(f"expected the content of a file or a value, got {shortened(value)}, which would name a file.")
    if len(value) > _LONGEST_PATH or "\0" in value:
        raise ValueError(f"expected the path of a file, got {len(value):,} characters: {shortened(value)}.")
    path = folder / value.strip()
    if not (path.is_file() or (directory and path.is_dir())):
        raise FileNotFoundError(f"there is no file {path}.")
    return path


def _numbers_of_file(path: Path | FileContent) -> NDArray[Any]:
    if path.suffix.lower() != ".npy":
        return read_numbers(decoded(path.read_bytes(), path=path), path=path)
    try:
        array: NDArray[Any] = read_array(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: holds no numbers in rows of equal length: {error}.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected numbers, got {array.dtype}.")
    return array


def shortened(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
