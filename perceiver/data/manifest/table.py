"""The rows of a manifest as columns whose cells are looked up individually.

Columns are Arrow arrays: compact, and shared with loader processes. Lists of Python objects would gradually be copied to
each of them.
"""

import bisect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perceiver.data.manifest.formats.delimited_rows import read_delimited_rows
from perceiver.data.manifest.formats.json_rows import read_json_rows
from perceiver.data.manifest.formats.parquet_rows import read_parquet_rows
from perceiver.data.manifest.formats.parts import (
    DELIMITED,
    GZIP,
    JSON,
    PARQUET,
    Place,
    files_of,
    format_of,
    joined_columns,
    listed,
    splits_of_names,
)
from perceiver.data.manifest.formats.table_file import TableFile
from perceiver.data.readers.bounded.gzip_files import read_gzip
from perceiver.modalities.cells.values import is_missing

log = logging.getLogger(__name__)

SPLIT = "split"
"""Name of the column of splits that is looked for."""


class ManifestTable:
    """The rows of a manifest.

    Args:
        path: path or pattern of the manifest, for messages.
        columns: columns of equal length, by name.
        parts: the files, in the order of the rows.
    """

    def __init__(self, *, path: Place, columns: Mapping[str, Any], parts: Sequence[TableFile]) -> None:
        self.path = path
        self.columns = dict(columns)
        self.json_text = parts[0].json_text
        self.repeated = sorted({name for part in parts for name in part.repeated})
        self.class_names: dict[str, Sequence[str]] = {}
        for part in parts:
            self.class_names |= part.class_names
        self.problems: dict[int, str] = {}
        self._files = [part.path for part in parts]
        self._lines = [None if part.lines is None else np.asarray(part.lines) for part in parts]
        self._starts: list[int] = []
        start = 0
        for part in parts:
            self._starts.append(start)
            self.problems |= {start + row: problem for row, problem in part.problems.items()}
            start += len(part)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def cell(self, row: int, column: str) -> Any:
        """Return the value of a cell: text from CSV files, also numbers, lists and dicts from others; None if missing."""
        value = _value(self.columns[column][row])
        if self.json_text and value is not None:
            value = json.loads(value)
        return None if is_missing(value) else value

    def where(self, row: int, column: str | None = None) -> str:
        """Return the name of a cell or row for messages."""
        part = bisect.bisect_right(self._starts, row) - 1
        own, lines = row - self._starts[part], self._lines[part]
        number = f"row {own + 1}" if lines is None else f"line {lines[own]}"
        return f"{self._files[part]}, {number}" + ("" if column is None else f", column {column!r}")


MAX_ROW_GROUP_BYTES = 2**31
"""Default memory limit of a row group in a Parquet file."""


def read_table(
    path: Place | Sequence[Place],
    *,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    max_row_group_bytes: int = MAX_ROW_GROUP_BYTES,
    max_decompressed_bytes: int | None = None,
) -> ManifestTable:
    """Read a manifest; the suffixes of its files determine the format.

    In a JSON file, every line is an object whose keys are columns, or the whole is an array of such objects. Text files may
    be compressed with gzip (`.csv.gz`). Columns without a unique name are left out. Rows that cannot be read go to
    `ManifestTable.problems`, as do the rows of too large row groups in Parquet files.

    Args:
        path: path of the file; or parts with the same columns: a pattern, a folder, or a list of paths and patterns. If the
            names of all parts begin with a split (`train-0.parquet`, `test-0.parquet`) and there is no column of splits, the
            names become that column.
        delimiter: delimiter of a CSV file. None: the tab, semicolon, bar or comma that fits most rows.
        encoding: encoding of a CSV file.
        header: column names of a CSV file whose first line does not have them.
        max_row_group_bytes: memory limit of a row group in a Parquet file.
        max_decompressed_bytes: size limit of a compressed file's content, see `perceiver.data.readers.bounded.gzip_files`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not a table in one of these formats, there are no rows, or parts differ in their columns.
    """
    files = files_of(path)
    parts = [
        _read_file(
            file,
            delimiter=delimiter,
            encoding=encoding,
            header=header,
            max_row_group_bytes=max_row_group_bytes,
            max_decompressed_bytes=max_decompressed_bytes,
        )
        for file in files
    ]
    whole = files[0] if len(files) == 1 else Path(listed(path)[0]) if len(listed(path)) == 1 else files[0].parent
    if sum(map(len, parts)) == 0:
        raise ValueError(f"{whole}: has no rows.")
    if len(parts) == 1:
        return ManifestTable(path=whole, columns=parts[0].columns, parts=parts)
    columns = joined_columns(parts)
    splits = None if SPLIT in columns else splits_of_names(files)
    if splits is not None:
        text = [json.dumps(split) if parts[0].json_text else split for split in splits]
        columns[SPLIT] = pa.chunked_array([pa.repeat(name, len(part)) for name, part in zip(text, parts, strict=True)])
        counts = {split: sum(len(p) for s, p in zip(splits, parts, strict=True) if s == split) for split in splits}
        log.info("%s: splits by the names of the files: %s.", whole, ", ".join(f"{s} {n} rows" for s, n in counts.items()))
    return ManifestTable(path=whole, columns=columns, parts=parts)


def _read_file(
    path: Path,
    *,
    delimiter: str | None,
    encoding: str,
    header: Sequence[str] | None,
    max_row_group_bytes: int,
    max_decompressed_bytes: int | None,
) -> TableFile:
    form = format_of(path)
    if form not in (*DELIMITED, *JSON, *PARQUET):
        known = ", ".join((*DELIMITED, *JSON, *PARQUET))
        raise ValueError(
            f"data.manifest: expected a file whose name ends in one of {known} (text also in .csv.gz and so on), got {path}."
        )
    try:
        if form in PARQUET:
            return read_parquet_rows(path, max_bytes=max_row_group_bytes)
        compressed = path.suffix.lower() == GZIP
        content = read_gzip(path, max_bytes=max_decompressed_bytes) if compressed else path.read_bytes()
        if form in JSON:
            return read_json_rows(path, content)
        return read_delimited_rows(path, content, delimiter=delimiter, encoding=encoding, header=header)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}.") from error


def _value(scalar: Any) -> Any:
    """Return the value of an Arrow scalar; numbers in lists, of structs too, become arrays."""
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ListScalar) and (numbers := _numbers(scalar.values)) is not None:
        return numbers
    if isinstance(scalar, pa.StructScalar):
        return {field.name: _value(scalar[number]) for number, field in enumerate(scalar.type)}
    return scalar.as_py()


def _numbers(values: pa.Array) -> NDArray[Any] | None:
    """Return nested lists of numbers of equal length as an array, without Python objects; None for other values."""
    shape = [len(values)]
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = values.value_lengths().unique().to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            return None
        shape.append(lengths[0])
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers
