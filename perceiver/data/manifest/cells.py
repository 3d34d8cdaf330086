"""From a manifest cell, a path or a value, to a raw sample for `perceiver.modalities.preprocess`."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceiver.data.manifest.columns import Report, table_spec
from perceiver.data.manifest.content import FileContent, unpacked
from perceiver.data.manifest.paths import Folder, placed
from perceiver.data.manifest.series import has_times, read_series, series_names
from perceiver.data.manifest.table import read_table
from perceiver.data.manifest.video import check_video, frame_files, is_array_content, read_video
from perceiver.data.readers.audio import check_recording, excerpt, read_recording
from perceiver.data.readers.bounded.array_files import read_array
from perceiver.data.readers.bounded.json_files import parse_json
from perceiver.data.readers.delimited import decoded
from perceiver.data.readers.flow_files import is_flow, read_flow_channels
from perceiver.data.readers.images import deep_range_of_files, read_image
from perceiver.data.readers.numbers import read_numbers
from perceiver.data.readers.point_clouds.reading import check_point_cloud, is_point_cloud, read_point_cloud
from perceiver.modalities.cells.number_lists import holds_text
from perceiver.modalities.cells.written_numbers import given_separators
from perceiver.modalities.kinds import kind_of
from perceiver.modalities.media.framing import image_formats
from perceiver.modalities.points import ArrayModality
from perceiver.modalities.spec import ModalitySpec

log = logging.getLogger(__name__)


@runtime_checkable
class Read(Protocol):
    """Reads a cell.

    Raises OSError or ValueError if the cell has no valid content of its kind; the message need not name row and column.
    """

    def __call__(self, value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
        """Return the raw sample.

        Args:
            value: content of the cell, not missing, see `cell_content`; a `FileContent` replaces a path, and a list of these
                a folder.
            spec: known part of the modality's spec.
            folder: base of relative paths; None: the cell must not name a file.
            training: make the random choices of training.
        """
        ...


@runtime_checkable
class Survey(Protocol):
    """Completes a spec from the raw cells of the training rows, before any is decoded."""

    def __call__(
        self, cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Folder | None, report: Report
    ) -> dict[str, Any]:
        """Return the completed spec; `cells` are (row, cell) pairs, and `report` gets unusable cells."""
        ...


def _is_array(value: Any, spec: ModalitySpec) -> bool:
    return not isinstance(value, str | Path) or _is_json(value)


def _is_json(value: Any) -> bool:
    return isinstance(value, str) and (value.lstrip()[:1] == "[" or _is_json_object(value))


def _is_json_object(text: str) -> bool:
    # Names of files may begin with a brace, too.
    return text.lstrip()[:1] == "{" and text.rstrip()[-1:] == "}"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Functions that read and check the cells of a kind of modality.

    Args:
        read: reads a cell.
        is_value: returns whether a cell holds a value; otherwise it is the path of a file. Not asked for a `Path`, which is
            always a path, or a `FileContent`.
        files: returns whether cells may name or hold files; otherwise they are values as they are.
        check_file: checks the head of a file.
        folders: whether a path may name a folder.
        check: checks a cell, instead of the functions above; None: values are read, and files checked.
        survey: completes the spec from the cells of the training rows; None: nothing to complete.
        surveyed: maximum number of cells for `survey`, evenly spaced; None: all.
    """

    read: Read
    is_value: Callable[[Any, ModalitySpec], bool] = _is_array
    files: Callable[[ModalitySpec], bool] = lambda spec: True
    check_file: Callable[[Path | FileContent], object] | None = None
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


def cell_content(value: Any, *, spec: ModalitySpec) -> Any:
    """Return the content of a cell: structs, also as JSON text, are unpacked, see `perceiver.data.manifest.content`.

    Raises:
        ValueError: a struct is invalid.
    """
    if value is None or not cells_of(spec).files(spec):
        return value
    if isinstance(value, str) and _is_json_object(value):
        found = from_json(value)
        content = unpacked(found)
        return value if content is found else content
    return unpacked(value)


def read_cell(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool = False) -> Any:
    """Read the raw sample that a cell holds or names. Errors as in `Read`."""
    value = cell_content(value, spec=spec)
    return cells_of(spec).read(value, spec=spec, folder=folder, training=training)


def read_sample(file: Path | bytes, *, spec: ModalitySpec) -> Any:
    """Read the raw sample in a file for `Perceiver.predict`.

    Args:
        file: path, relative to the working directory, or content.
        spec: spec of the modality, of any data set.

    Raises:
        OSError, ValueError: the file does not exist or has no valid content of the kind.
    """
    if spec["kind"] == "table":
        return _row_of_file(file)
    if spec["kind"] == "timeseries" and "names" not in spec:
        source = unpacked(file) if isinstance(file, bytes) else _existing(file, Path())
        spec = {**spec, "names": series_names(source, spec=spec)}
    return read_cell(file, spec=spec, folder=Path())


def _row_of_file(file: Path | bytes) -> Any:
    """Return the only row of a table, as a dict; in memory, it is a JSON object."""
    if isinstance(file, bytes):
        row = parse_json(file)
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object of values by column, got {type(row).__name__}")
        return row
    table = read_table(_existing(file, Path()))
    if len(table) != 1 or table.problems:
        raise ValueError(f"expected a table of one row, got {len(table)}; for more, use mode=predict")
    return {column: table.cell(0, column) for column in table.columns}


def check_cell(value: Any, *, spec: ModalitySpec, folder: Folder | None) -> None:
    """Check a cell, and the head of the file that it names, without decoding the file. Errors as in `Read`."""
    cells = cells_of(spec)
    value = cell_content(value, spec=spec)
    if cells.check is not None:
        cells.check(value, spec=spec, folder=folder)
    elif isinstance(value, FileContent) and cells.check_file is not None:
        cells.check_file(value)
    elif _holds_value(value, spec):
        cells.read(value, spec=spec, folder=folder, training=False)
    else:
        path = _existing(value, folder, directory=cells.folders)
        if cells.check_file is not None:
            cells.check_file(path)


def files_of_cell(value: Any, *, spec: ModalitySpec, folder: Folder) -> list[Path | FileContent] | None:
    """Return the files that a cell names or holds: a file, or the frames of a video; None if it holds another value.

    Raises:
        OSError: the file does not exist.
        ValueError: the folder has no images.
    """
    cells = cells_of(spec)
    value = cell_content(value, spec=spec)
    if isinstance(value, FileContent):
        return [value]
    if is_list_of_files(value):
        return [one if isinstance(one, FileContent) else _existing(one, folder) for one in value]
    if _holds_value(value, spec):
        return None
    path = _existing(value, folder, directory=cells.folders)
    return [*frame_files(path, num_frames=spec["shape"][1])] if path.is_dir() else [path]


def is_list_of_files(value: Any) -> bool:
    """Return whether the content of a cell is a list of files, such as the frames of a video."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, FileContent | Path) for one in value)


def _holds_value(value: Any, spec: ModalitySpec) -> bool:
    if isinstance(value, Path):
        return False
    return isinstance(value, FileContent) or cells_of(spec).is_value(value, spec)


def names_of_series(value: Any, *, spec: ModalitySpec, folder: Folder | None) -> list[str]:
    """Return the names of the values in a time series cell. Errors as in `Read`."""
    return series_names(_series_source(value, folder), spec=spec)


def array_of(value: Any, folder: Folder | None, *, spec: ModalitySpec) -> NDArray[Any]:
    """Read numbers from a list, its JSON text, or a file: `.npy`, or text with spaces, tabs or commas between numbers.

    Points have the separators of such text in their spec.

    Raises:
        OSError, ValueError: the value is not an array, or its lists differ in length.
    """
    if isinstance(value, FileContent):
        return _numbers_of_file(value, spec)
    if isinstance(value, Path) or (isinstance(value, str) and not _is_json(value)):
        return _numbers_of_file(_existing(value, folder), spec)
    if isinstance(value, str):
        value = from_json(value)
    if isinstance(value, list) and holds_text(value):
        raise ValueError(f"expected numbers, or the path of a file with numbers, got {shortened(value)}.")
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


def _image(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    if isinstance(value, Path) or (isinstance(value, str) and not _is_json(value)):
        value = _existing(value, folder)
    if isinstance(value, Path | FileContent):
        return read_image(_rewound(value), deep_range=spec.get("deep_range"))
    pixels = array_of(value, folder, spec=spec)
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


def _audio(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    if isinstance(value, tuple):
        array, rate = value
        samples = _audio(array, spec=spec, folder=None, training=training)
        start, kept = excerpt(samples.shape[-1], rate, max_seconds=spec.get("max_seconds"), random_start=training)
        return samples[..., start : start + kept], rate
    if isinstance(value, Path) or (isinstance(value, str) and not _is_json(value)):
        value = _existing(value, folder)
    if isinstance(value, Path | FileContent):
        return read_recording(_rewound(value), max_seconds=spec.get("max_seconds"), random_start=training)
    samples = array_of(value, folder, spec=spec)
    if samples.ndim not in (1, 2) or samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError(f"expected finite samples (samples,) or (channels, samples), got shape {samples.shape}.")
    # Specs of version 0.1 have no width: integers were not scaled.
    return samples if samples.dtype.kind in "iu" and "integer_bits" in spec else samples.astype(np.float32)


def _text(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    if isinstance(value, list | np.ndarray):
        return array_of(value, folder, spec=spec)
    if not spec.get("files") and not isinstance(value, Path | FileContent):
        return value if isinstance(value, str) else str(value)
    path = value if isinstance(value, FileContent) else _existing(value, folder)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    if not text.strip():
        raise ValueError(f"{path}: is empty.")
    return text


def _series(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    return read_series(_series_source(value, folder), spec=spec)


def _series_source(value: Any, folder: Folder | None) -> Any:
    if not isinstance(value, str | Path):
        return value
    return from_json(str(value)) if _is_json(value) else _existing(value, folder)


def _video(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    settings = {"num_frames": spec["shape"][1], "deep_range": spec.get("deep_range")}
    if is_list_of_files(value):
        return read_video([_file_of(one, folder) for one in value], **settings)
    if isinstance(value, FileContent):
        return read_video(value, **settings)
    if not isinstance(value, str | Path):
        raise ValueError(f"expected the path of a video, got {shortened(value)}.")
    return read_video(_existing(value, folder, directory=True), **settings)


def _file_of(value: Path | FileContent, folder: Folder | None) -> Path | FileContent:
    return value if isinstance(value, FileContent) else _existing(value, folder)


def _rewound(file: Path | FileContent) -> Path | FileContent:
    """Go to the beginning of a file in memory, which may have been checked before."""
    if isinstance(file, FileContent):
        file.seek(0)
    return file


def _array(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    array = array_of(value, folder, spec=spec)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected one or more finite numbers, got shape {array.shape}.")
    return array


def _grid(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    """Read an array, or a flow file: with a first length of 3 in the shape, the third channel is 1 where flow is known."""
    file = _numbers_file(value, folder)
    if file is not None and is_flow(file):
        return read_flow_channels(file, channels=spec["shape"][0])
    return _array(value, spec=spec, folder=folder, training=training)


def _points(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    file = _numbers_file(value, folder)
    if file is not None and is_point_cloud(file):
        value = read_point_cloud(file, features=spec.get("features", ()))
    array = _array(value, spec=spec, folder=folder, training=training)
    if array.ndim != 2:
        raise ValueError(f"expected a list of points, each a list of coordinates, got numbers of shape {array.shape}.")
    return array


def _table(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    """Return the value unchanged."""
    return value


def _series_names(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Folder | None, report: Report
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
        message = (
            "column %r: series have no times, so their steps are taken to be 1 second apart; set step_seconds for other "
            "intervals."
        )
        log.info(message, spec["column"])
    return found


def _deep_range(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Folder | None, report: Report
) -> dict[str, Any]:
    """Add the range of images with more than 8 bits per pixel, if there are such images and the settings do not give it."""
    if "deep_range" in spec or folder is None:
        return dict(spec)
    images = (image for _, cell in cells for image in _images_in(cell, spec=spec, folder=folder))
    found = deep_range_of_files(images)
    return dict(spec) if found is None else {**spec, "deep_range": found}


def _images_in(value: Any, *, spec: ModalitySpec, folder: Folder) -> list[Path | FileContent]:
    """Return the files of images in a cell; an empty list if no image is found."""
    try:
        return list(files_of_cell(value, spec=spec, folder=folder) or ())
    except (OSError, ValueError):
        return []


def _warn_of_paths(
    cells: Iterable[tuple[int, Any]], *, spec: ModalitySpec, folder: Folder | None, report: Report
) -> dict[str, Any]:
    """Return the spec unchanged; warn if texts are paths of files, which are rarely meant to be learned as text."""
    texts = [text for _, text in cells]
    if not spec.get("files") and folder is not None and all(_is_path_of_file(text, folder) for text in texts):
        log.warning(
            "column %r: the cells look like file paths, such as %s, and are used as text; set files: true to read "
            "the files.",
            *(spec["column"], shortened(texts[0])),
        )
    return dict(spec)


def _is_path_of_file(value: Any, folder: Folder) -> bool:
    try:
        return isinstance(value, str) and _existing(value, folder).is_file()
    except (OSError, ValueError):
        return False


def _check_image(path: Path | FileContent) -> None:
    try:
        with Image.open(_rewound(path), formats=image_formats()):
            pass
    except Exception as error:
        raise ValueError(f"{path}: not a readable image ({type(error).__name__}: {error}).") from error


def _of_plug_in(value: Any, *, spec: ModalitySpec, folder: Folder | None, training: bool) -> Any:
    kind = kind_of(spec)
    if kind.cells == "numbers":
        value = array_of(value, folder, spec=spec)
    elif kind.cells == "files":
        value = value if isinstance(value, FileContent) else _existing(value, folder)
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
    "points": Cells(read=_points, check_file=check_point_cloud),
    "text": Cells(
        read=_text,
        is_value=lambda value, spec: not (isinstance(value, str) and spec.get("files")),
        files=lambda spec: bool(spec.get("files")),
        survey=_warn_of_paths,
        surveyed=8,
    ),
    "timeseries": Cells(
        read=_series,
        check=names_of_series,
        survey=_series_names,
    ),
    "table": Cells(read=_table, is_value=lambda value, spec: True, files=lambda spec: False, survey=table_spec),
}
"""Cell functions by built-in kind."""

_ARRAYS = Cells(read=_grid)

_PLUG_INS = {
    "numbers": Cells(read=_of_plug_in),
    "files": Cells(read=_of_plug_in, is_value=lambda value, spec: not isinstance(value, str)),
    "values": Cells(read=_of_plug_in, is_value=lambda value, spec: True, files=lambda spec: False),
}
"""Cell functions by `Modality.cells`."""


_LONGEST_PATH = 1024  # characters; longer text is content, e.g. in base 64


def _existing(value: Any, folder: Folder | None, *, directory: bool = False) -> Path:
    if folder is None:
        raise ValueError(f"expected file content or a value, got {shortened(value)}, which is a path.")
    text = str(value)
    if len(text) > _LONGEST_PATH or "\0" in text:
        raise ValueError(f"expected a file path, got {len(text):,} characters: {shortened(text)}.")
    path = placed(folder, value if isinstance(value, Path) else text.strip())
    if not (path.is_file() or (directory and path.is_dir())):
        raise FileNotFoundError(f"no such file: {path}.")
    return path


def _numbers_file(value: Any, folder: Folder | None) -> Path | FileContent | None:
    """Return the file that a cell of numbers names or holds; None if it holds numbers."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return _existing(value, folder)
    return value if isinstance(value, FileContent) else None


def _numbers_of_file(path: Path | FileContent, spec: ModalitySpec) -> NDArray[Any]:
    if path.suffix.lower() != ".npy" and not is_array_content(path):
        separators = given_separators(spec) if spec["kind"] == "points" else {}
        return read_numbers(decoded(path.read_bytes(), path=path), path=path, separators=separators)
    try:
        array: NDArray[Any] = read_array(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected numbers in rows of equal length: {error}.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected numbers, got {array.dtype}.")
    return array


def shortened(value: Any) -> str:
    """Return a value in short form for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
