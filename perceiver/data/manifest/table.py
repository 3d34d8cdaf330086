"""Reading a manifest, CSV, JSON lines or Parquet, into columns whose cells are looked up individually.

Columns are Arrow arrays: compact, and shared with loader processes. Lists of Python objects would gradually be copied to
each of them.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perceiver.data.readers.bounded_json import parse_json
from perceiver.data.readers.delimited import decoded, distinct, read_delimited
from perceiver.modalities.cell_values import is_missing

log = logging.getLogger(__name__)

CSV, JSON_LINES, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")


class ManifestTable:
    """The rows of a manifest.

    Args:
        path: path of the file, for messages.
        columns: columns of equal length, by name.
        json_text: whether the columns hold JSON.
        lines: line at which each row begins in a text file, from 1; None: rows are counted from 1.
        problems: rows that could not be read, with reasons.
        repeated: repeated column names, which are not in `columns`.
    """

    def __init__(
        self,
        *,
        path: Path,
        columns: Mapping[str, pa.Array],
        json_text: bool = False,
        lines: Sequence[int] | None = None,
        problems: Mapping[int, str] | None = None,
        repeated: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.columns = dict(columns)
        self.json_text = json_text
        self.lines = None if lines is None else np.asarray(lines)
        self.problems = dict(problems or {})
        self.repeated = list(repeated)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def cell(self, row: int, column: str) -> Any:
        """Return the value of a cell: text from CSV files, also numbers, lists and dicts from others; None if missing."""
        scalar = self.columns[column][row]
        if isinstance(scalar, pa.ListScalar) and scalar.is_valid and (numbers := _numbers(scalar.values)) is not None:
            return numbers
        value = scalar.as_py()
        if self.json_text and value is not None:
            value = json.loads(value)
        return None if is_missing(value) else value

    def where(self, row: int, column: str | None = None) -> str:
        """Return the name of a cell or row for messages."""
        number = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.path}, {number}" + ("" if column is None else f", column {column!r}")


MAX_ROW_GROUP_BYTES = 2**31
"""Default memory limit of a row group in a Parquet file."""

_BATCH_ROWS, _MOST_DECLINED = 1024, 10**6


def read_table(
    path: str | os.PathLike[str],
    *,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    max_row_group_bytes: int = MAX_ROW_GROUP_BYTES,
) -> ManifestTable:
    """Read a manifest; the suffix of its name determines the format.

    In a JSON lines file, every line is an object whose keys are columns. Columns without a unique name are left out. Rows
    that cannot be read go to `ManifestTable.problems`, as do the rows of too large row groups in Parquet files.

    Args:
        path: path of the file.
        delimiter: delimiter of a CSV file. None: the tab, semicolon, bar or comma that fits most rows.
        encoding: encoding of a CSV file.
        header: column names of a CSV file whose first line does not have them.
        max_row_group_bytes: memory limit of a row group in a Parquet file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a table in one of these formats, or has no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"data.manifest: expected a CSV, Parquet or JSON lines file, but {path.resolve()} "
            f"{'is a folder' if path.is_dir() else 'is not there'}."
        )
    suffix = path.suffix.lower()
    if suffix not in (*CSV, *JSON_LINES, *PARQUET):
        known = ", ".join((*CSV, *JSON_LINES, *PARQUET))
        raise ValueError(f"data.manifest: expected a file whose name ends in one of {known}, got {path}.")
    try:
        if suffix in PARQUET:
            table = _read_parquet(path, max_bytes=max_row_group_bytes)
        elif suffix in CSV:
            table = _read_csv(path, delimiter=delimiter, encoding=encoding, header=header)
        else:
            table = _read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}.") from error
    if len(table) == 0:
        raise ValueError(f"{path}: holds no rows.")
    return table


def _read_csv(path: Path, *, delimiter: str | None, encoding: str, header: Sequence[str] | None) -> ManifestTable:
    text = decoded(path.read_bytes(), path=path, encoding=encoding, errors="surrogateescape")
    file = read_delimited(text, path=path, delimiter=delimiter, header=header)
    names = file.header
    chosen, repeated = _named_columns(path, names)
    cells: list[list[str | None]] = [[] for _ in names]
    problems: dict[int, str] = {}
    for row, values in enumerate(file.rows):
        if len(values) != len(names):
            problems[row] = f": expected {len(names)} cells, as in the header, got {len(values)}"
            values = [*values[: len(names)], *[""] * (len(names) - len(values))]
        for column, value in enumerate(values):
            if _is_broken(value):
                problems.setdefault(row, f", column {names[column]!r}: is not UTF-8; save the file as UTF-8")
                value = ""
            cells[column].append(value)
    columns = {name: pa.array(cells[number], type=pa.large_string()) for name, number in chosen.items()}
    return ManifestTable(path=path, columns=columns, lines=file.lines, problems=problems, repeated=repeated)


def _read_json(path: Path) -> ManifestTable:
    problems: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not str.splitlines: JSON may hold unescaped Unicode line separators.
    text = decoded(path.read_bytes(), path=path, errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row, problem = _json_row(line)
        if problem:
            problems[len(rows)] = problem
        rows.append(row)
        lines.append(number)
    if len(problems) == len(rows) > 0:
        raise ValueError(f"{path}, line {lines[0]}{problems[0]}. Expected one object {{…}} per line.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen, repeated = _named_columns(path, names)
    columns = {
        name: pa.array(
            [None if row.get(names[number]) is None else json.dumps(row[names[number]]) for row in rows],
            type=pa.large_string(),
        )
        for name, number in chosen.items()
    }
    return ManifestTable(path=path, columns=columns, json_text=True, lines=lines, problems=problems, repeated=repeated)


def _json_row(line: str) -> tuple[dict[str, Any], str]:
    """Return a row, and its problem or an empty string."""
    try:
        row = parse_json(line)
    except ValueError as error:
        return {}, f": is not JSON: {error}"
    if not isinstance(row, dict):
        return {}, f": expected a JSON object, got {type(row).__name__}"
    for name in row:
        # Invalid characters that json.loads passes through come from the broken file.
        if _is_broken(name) or _is_broken(json.dumps(row[name], ensure_ascii=False)):
            return {}, f", column {name.encode(errors='replace').decode()!r}: is not UTF-8; save the file as UTF-8"
    return row, ""


def _read_parquet(path: Path, *, max_bytes: int) -> ManifestTable:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            chosen, repeated = _named_columns(path, [str(name) for name in file.schema_arrow.names])
            parts, problems = _row_groups(path, file, max_bytes=max_bytes)
            table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, _TooLargeError):
            raise
        raise ValueError(f"{path}: is no Parquet file that can be read: {error}.") from error
    columns = {}
    for name, number in chosen.items():
        column = table.column(number)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        whole = column.combine_chunks()
        columns[name] = _as_text(whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole)
        _check_cells(columns[name], name, problems)
    return ManifestTable(path=path, columns=columns, problems=problems, repeated=repeated)


def _as_text(column: Any) -> Any:
    """Convert a column of bytes to text if all cells are text, as some programs write it; keep others, e.g. images."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column
    try:
        text = column.cast(pa.large_string())
    except pa.ArrowException:
        return column
    return column if pc.any(pc.match_substring(text, "\0")).as_py() else text


def _check_cells(column: Any, name: str, problems: dict[int, str]) -> None:
    """Find the cells of a column that do not match its type, such as text that is not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowException:
        for row in range(len(column)):
            try:
                column[row].as_py()
            except Exception as error:
                problems.setdefault(row, f", column {name!r}: cannot be decoded: {error}")


class _TooLargeError(ValueError):
    """A table does not fit into memory, and its rows cannot be distinguished."""


def _row_groups(path: Path, file: pq.ParquetFile, *, max_bytes: int) -> tuple[list[pa.Table], dict[int, str]]:
    """Return the row groups, with empty rows in place of a too large group, and the problems by row."""
    parts: list[pa.Table] = []
    problems: dict[int, str] = {}
    row = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        claimed = int(group.total_byte_size)
        part = None if claimed > max_bytes else _row_group(file, number, max_bytes=max_bytes)
        if part is None:
            size = f"{claimed:,}" if claimed > max_bytes else f"more than {max_bytes:,}"
            problem = (
                f": is in row group {number} of {size} bytes, expected at most {max_bytes:,}; write smaller row groups, or "
                "raise data.max_row_group_bytes"
            )
            if group.num_rows > _MOST_DECLINED:
                raise _TooLargeError(f"{path}, row {row + 1}{problem}.")
            problems.update(dict.fromkeys(range(row, row + group.num_rows), problem))
            nulls = [pa.nulls(group.num_rows, type=field.type) for field in file.schema_arrow]
            part = pa.Table.from_arrays(nulls, schema=pa.schema([field.with_nullable(True) for field in file.schema_arrow]))
        parts.append(part)
        row += part.num_rows
    schema = pa.schema([field.with_nullable(True) for field in file.schema_arrow])
    return [part.cast(schema) for part in parts], problems


def _row_group(file: pq.ParquetFile, number: int, *, max_bytes: int) -> pa.Table | None:
    """Read a row group; return None if it is larger than allowed, regardless of the size that the file claims."""
    group = file.metadata.row_group(number)
    columns = [group.column(index) for index in range(group.num_columns)]
    # A value may be stored once for all of its rows, so that a few rows can take more bytes than the stored group.
    largest = max((column.total_uncompressed_size for column in columns if column.physical_type == "BYTE_ARRAY"), default=0)
    rows = max(1, min(_BATCH_ROWS, max_bytes // max(largest, 1)))
    batches, size = [], 0
    for batch in file.iter_batches(batch_size=rows, row_groups=[number]):
        size += batch.nbytes
        if size > max_bytes:
            return None
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=file.schema_arrow)


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


def _named_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return the positions of the uniquely named columns, by name, and the repeated names.

    Columns without a unique name are left out: they do no harm unless they are requested.
    """
    names = [name.strip() for name in names]
    if not any(names):
        raise ValueError(
            f"{path}: expected the names of columns, got an empty file. The first line of a CSV file names them."
        )
    chosen = {name: number for name, number in distinct(names).items() if not _is_broken(name)}
    if unnamed := [number for number, name in enumerate(names, start=1) if not name or _is_broken(name)]:
        log.info("%s: columns without a name are left out: %s.", path, ", ".join(map(str, unnamed)))
    return chosen, sorted({name for name in names if name and name not in chosen and not _is_broken(name)})


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)
