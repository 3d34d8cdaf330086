"""From a manifest cell, a path or a value, to a raw sample for `perceiver.modalities.preprocess`."""

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceiver.data.manifest.columns import Report, table_spec
from perceiver.data.manifest.content import FileContent
from perceiver.data.manifest.series import has_times, read_series, series_names
from perceiver.data.manifest.video import check_video, frame_files, read_video
from perceiver.data.readers.array_files import read_array
from perceiver.data.readers.audio import check_recording, read_recording
from perceiver.data.readers.bounded_json import parse_json
from perceiver.data.readers.delimited import decoded
from perceiver.data.readers.images import deep_range_of_files, read_image
from perceiver.data.readers.numbers import read_numbers
from perceiver.modalities.kinds import kind_of
from perceiver.modalities.points import ArrayModality
from perceiver.modalities.spec import ModalitySpec

log = logging.getLogger(__name__)


@runtime_checkable
class Read(Protocol):
    """Reads a cell.

    Raises OSError or ValueError if the cell has no valid content of its kind; the message need not name row and column.
    """

    def __call__(self, value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
        """Return the raw sample.

        Args:
            value: value of the cell, not missing; a `FileContent` replaces a path, and a list of these a folder.
            spec: known part of the modality's spec.
            folder: base of relative paths; None: the cell must not name a file.
            training: make the random choices of training.
        """
        ...


@runtime_checkable
class Survey(Protocol):
    """Completes a spec from the raw cells of the training rows, before any is decoded."""

    def __call__(
        self, cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Path | None, report: Report
    ) -> dict[str, Any]:
        """Return the completed spec; `cells` are (row, cell) pairs, and `report` gets unusable cells."""
        ...


def _is_array(value: Any, spec: ModalitySpec) -> bool:
    return not isinstance(value, str) or value.lstrip()[:1] == "["


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Functions that read and check the cells of a kind of modality.

    Args:
        read: reads a cell.
        is_value: returns whether a cell holds a value; otherwise it is the path of a file.
        check_file: checks the head of a file.
        folders: whether a path may name a folder.
        check: checks a cell, instead of the functions above; None: values are read, and files checked.
        survey: completes the spec from the cells of the training rows; None: nothing to complete.
        surveyed: maximum number of cells for `survey`, evenly spaced; None: all.
    """

    read: Read
    is_value: Callable[[Any, ModalitySpec], bool] = _is_array
    check_file: Callable[[Path], object] | None = None
    folders: bool = False
    check: Callable[..., object] | None = None
    survey: Survey | None = None
    surveyed: int | None = None


def cells_of(spec: ModalitySpec) -> Cells:
    """Return the `Cells` for the kind of a modality; for a kind of another package, those that its `cells` selects."""
    known = CELLS.get(str(spec["kind"]))
    if known is not None:
        return known
    kind = kind_of(spec)
    return _ARRAYS if isinstance(kind, ArrayModality) else _PLUG_INS[kind.cells]


def read_cell(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool = False) -> Any:
    """Read the raw sample that a cell holds or names. Errors as in `Read`."""
    return cells_of(spec).read(value, spec=spec, folder=folder, training=training)


def check_cell(value: Any, *, spec: ModalitySpec, folder: Path | None) -> None:
    """Check a cell, and the head of the file that it names, without decoding the file. Errors as in `Read`."""
    cells = cells_of(spec)
    if cells.check is not None:
        cells.check(value, spec=spec, folder=folder)
    elif cells.is_value(value, spec):
        read_cell(value, spec=spec, folder=folder)
    else:
        path = _existing(value, folder, directory=cells.folders)
        if cells.check_file is not None:
            cells.check_file(path)


def files_of_cell(value: Any, *, spec: ModalitySpec, folder: Path) -> list[Path] | None:
    """Return the files that a cell names: a file, or the frames of a video in a folder; None if it holds a value.

    Raises:
        OSError: the file does not exist.
        ValueError: the folder has no images.
    """
    cells = cells_of(spec)
    if cells.is_value(value, spec):
        return None
    path = _existing(value, folder, directory=cells.folders)
    return frame_files(path, num_frames=spec["shape"][1]) if path.is_dir() else [path]


def names_of_series(value: Any, *, spec: ModalitySpec, folder: Path | None) -> list[str]:
    """Return the names of the values in a time series cell. Errors as in `Read`."""
    return series_names(_series_source(value, folder), spec=spec)


def array_of(value: Any, folder: Path | None) -> NDArray[Any]:
    """Read numbers from a list, its JSON text, or a file: `.npy`, or text with spaces, tabs or commas between numbers.

    Raises:
        OSError, ValueError: the value is not an array, or its lists differ in length.
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
    """Parse a JSON text in a cell."""
    try:
        # No depth limit here: later steps accept only arrays with few dimensions.
        return parse_json(text, max_depth=None)
    except ValueError as error:
        raise ValueError(f"expected a path, or JSON, got {shortened(text)}: {error}") from None


def _image(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # images in Parquet files of the Hugging Face hub
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, FileContent):
        return read_image(value, deep_range=spec.get("deep_range"))
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return read_image(_existing(value, folder), deep_range=spec.get("deep_range"))
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


def _audio(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    if isinstance(value, FileContent):
        return read_recording(value, max_seconds=spec.get("max_seconds"), random_start=training)
    if isinstance(value, str) and not value.lstrip().startswith("["):
        path = _existing(value, folder)
        return read_recording(path, max_seconds=spec.get("max_seconds"), random_start=training)
    samples = array_of(value, folder)
    if samples.ndim not in (1, 2) or samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError(f"expected finite samples (samples,) or (channels, samples), got shape {samples.shape}.")
    # Specs of version 0.1 have no width: integers were not scaled.
    return samples if samples.dtype.kind in "iu" and "integer_bits" in spec else samples.astype(np.float32)


def _text(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    if isinstance(value, list | np.ndarray):
        return array_of(value, folder)
    if not spec.get("files"):
        return value if isinstance(value, str) else str(value)
    path = value if isinstance(value, FileContent) else _existing(str(value), folder)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    if not text.strip():
        raise ValueError(f"{path}: is empty.")
    return text


def _series(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    return read_series(_series_source(value, folder), spec=spec)


def _series_source(value: Any, folder: Path | None) -> Any:
    if not isinstance(value, str):
        return value
    return from_json(value) if value.lstrip()[:1] in ("[", "{") else _existing(value, folder)


def _video(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    if isinstance(value, FileContent) or (isinstance(value, list) and value and isinstance(value[0], FileContent)):
        return read_video(value, num_frames=spec["shape"][1], deep_range=spec.get("deep_range"))
    if not isinstance(value, str):
        raise ValueError(f"expected the path of a video, got {shortened(value)}.")
    path = _existing(value, folder, directory=True)
    return read_video(path, num_frames=spec["shape"][1], deep_range=spec.get("deep_range"))


def _array(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    array = array_of(value, folder)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected finite numbers, not none, got shape {array.shape}.")
    return array


def _points(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    array = _array(value, spec=spec, folder=folder, training=training)
    if array.ndim != 2:
        raise ValueError(f"expected points, a list of coordinates each, got numbers of shape {array.shape}.")
    return array


def _table(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    """Return the value unchanged."""
    return value


def _series_names(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Path | None, report: Report
) -> dict[str, Any]:
    """Add the names of the values of all series, in order of appearance, if the settings do not name them, and the step.

    If no series has times, steps are one second per row.
    """
    names: dict[str, None] = {}
    timed = spec.get("step_seconds") is not None
    for row, value in cells:
        try:
            source = _series_source(value, folder)
            if "names" not in spec:
                names.update(dict.fromkeys(series_names(source, spec=spec)))
            timed = timed or has_times(source, spec=spec)
        except Exception as error:
            if "names" not in spec:
                report(row, str(spec["column"]), error)
    found = dict(spec) if "names" in spec else {**spec, "names": list(names), "num_values": len(names)}
    if not timed:
        found["step_seconds"] = 1.0
        message = "column %r: series have no times, so that steps are 1 second apart; set step_seconds for others."
        log.info(message, spec["column"])
    return found


def _deep_range(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Path | None, report: Report
) -> dict[str, Any]:
    """Add the range of images with more than 8 bits per pixel, if there are such images and the settings do not give it."""
    if "deep_range" in spec or folder is None:
        return dict(spec)
    images = (image for _, cell in cells for image in _images_in(cell, spec=spec, folder=folder))
    found = deep_range_of_files(images)
    return dict(spec) if found is None else {**spec, "deep_range": found}


def _images_in(value: Any, *, spec: ModalitySpec, folder: Path) -> list[Path | io.BytesIO]:
    """Return the files or contents of images in a cell; an empty list if no image is found."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return [io.BytesIO(value)]
    try:
        return list(files_of_cell(value, spec=spec, folder=folder) or ())
    except (OSError, ValueError):
        return []


def _warn_of_paths(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Path | None, report: Report
) -> dict[str, Any]:
    """Return the spec unchanged; warn if texts are paths of files, which are rarely meant to be learned as text."""
    texts = [text for _, text in cells]
    if not spec.get("files") and folder is not None and all(_is_path_of_file(text, folder) for text in texts):
        log.warning(
            "column %r: holds paths of files, such as %s, and trains on these names; set files: true to read the files.",
            *(spec["column"], shortened(texts[0])),
        )
    return dict(spec)


def _is_path_of_file(value: Any, folder: Path) -> bool:
    try:
        return isinstance(value, str) and _existing(value, folder).is_file()
    except (OSError, ValueError):
        return False


def _check_image(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except Exception as error:
        raise ValueError(f"{path}: no image that can be read ({type(error).__name__}: {error}).") from error


def _of_plug_in(value: Any, *, spec: ModalitySpec, folder: Path | None, training: bool) -> Any:
    kind = kind_of(spec)
    if kind.cells == "numbers":
        value = array_of(value, folder)
    elif kind.cells == "files":
        if isinstance(value, bytes):
            value = FileContent(value, name="content of a cell")
        value = value if isinstance(value, FileContent) else _existing(str(value), folder)
    return kind.read(value, spec)


CELLS: dict[str, Cells] = {
    "image": Cells(read=_image, check_file=_check_image, survey=_deep_range, surveyed=1024),
    "video": Cells(
        read=_video,
        is_value=lambda value, spec: not isinstance(value, str),
        check_file=check_video,
        folders=True,
        survey=_deep_range,
        surveyed=128,
    ),
    "audio": Cells(read=_audio, check_file=check_recording),
    "points": Cells(read=_points),
    "text": Cells(
        read=_text,
        is_value=lambda value, spec: not (isinstance(value, str) and spec.get("files")),
        survey=_warn_of_paths,
        surveyed=8,
    ),
    "timeseries": Cells(
        read=_series,
        is_value=lambda value, spec: not isinstance(value, str) or value.lstrip()[:1] in ("[", "{"),
        check=names_of_series,
        survey=_series_names,
    ),
    "table": Cells(read=_table, is_value=lambda value, spec: True, survey=table_spec),
}
"""Cell functions by built-in kind."""

_ARRAYS = Cells(read=_array)

_PLUG_INS = {
    "numbers": Cells(read=_of_plug_in),
    "files": Cells(read=_of_plug_in, is_value=lambda value, spec: not isinstance(value, str)),
    "values": Cells(read=_of_plug_in, is_value=lambda value, spec: True),
}
"""Cell functions by `Modality.cells`."""


_LONGEST_PATH = 1024  # characters; longer text is content, e.g. in base 64


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
    """Return a value in short form for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
