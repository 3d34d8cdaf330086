"""Reading a manifest, CSV, JSON lines or Parquet, into columns whose cells are looked up one at a time.

Columns are Arrow arrays: compact, and shared with loader processes, where lists of Python objects would be copied to each
of them little by little.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perceiver.data.readers.bounded_json import parse_json
from perceiver.modalities.table import is_missing

CSV, JSON_LINES, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")


class ManifestTable:
    """The rows of a manifest.

    Args:
        path: of the file, for messages.
        columns: by name, all equally long.
        json_text: the columns hold JSON.
        lines: where each row begins in a text file, from 1; None: rows are counted from 1.
        problems: rows that could not be read, and why.
    """

    def __init__(
        self,
        *,
        path: Path,
        columns: Mapping[str, pa.Array],
        json_text: bool = False,
        lines: Sequence[int] | None = None,
        problems: Mapping[int, str] | None = None,
    ) -> None:
        self.path = path
        self.columns = dict(columns)
        self.json_text = json_text
        self.lines = None if lines is None else np.asarray(lines)
        self.problems = dict(problems or {})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def cell(self, row: int, column: str) -> Any:
        """What stands there: text in CSV files, numbers, lists and dicts too in the others; None where it is missing."""
        scalar = self.columns[column][row]
        if isinstance(scalar, pa.ListScalar) and scalar.is_valid and (numbers := _numbers(scalar.values)) is not None:
            return numbers
        value = scalar.as_py()
        if self.json_text and value is not None:
            value = json.loads(value)
        return None if is_missing(value) else value

    def where(self, row: int, column: str | None = None) -> str:
        """A cell or row as messages name it."""
        number = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.path}, {number}" + ("" if column is None else f", column {column!r}")


MAX_ROW_GROUP_BYTES = 2**31
"""How much memory a row group of a Parquet file may take by default."""

_BATCH_ROWS, _MOST_DECLINED = 1024, 10**6


def read_table(path: str | os.PathLike[str], *, max_row_group_bytes: int = MAX_ROW_GROUP_BYTES) -> ManifestTable:
    """A manifest; the ending of its name says what it is.

    CSV files have a header; cells are separated by commas, semicolons or tabs, whichever the header has. In a file of JSON
    lines, every line is an object, whose keys are columns. Text is UTF-8. Rows that cannot be read go to
    `ManifestTable.problems`, as do those of row groups of Parquet files that are too large.

    Args:
        path: of the file.
        max_row_group_bytes: how much memory a row group of a Parquet file may take.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, has no rows, or columns without a name or of the same name.
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
        else:
            table = _read_csv(path) if suffix in CSV else _read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}.") from error
    if len(table) == 0:
        raise ValueError(f"{path}: holds no rows.")
    return table


def _read_csv(path: Path) -> ManifestTable:
    text = _decoded(path)
    header = text.partition("\n")[0]
    delimiter = "," if "," in header else next((one for one in ";\t" if one in header), ",")
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            names = _column_names(path, next(reader, []))
            rows = list(_csv_rows(reader))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: is not CSV: {error}. Check the quotes around it.") from error
    cells: list[list[str | None]] = [[] for _ in names]
    problems: dict[int, str] = {}
    for row, (_, values) in enumerate(rows):
        if len(values) != len(names):
            problems[row] = f": expected {len(names)} cells, as in the header, got {len(values)}"
            values = [*values[: len(names)], *[""] * (len(names) - len(values))]
        for column, value in enumerate(values):
            if _is_broken(value):
                problems.setdefault(row, f", column {names[column]!r}: is not UTF-8; save the file as UTF-8")
                value = ""
            cells[column].append(value)
    columns = {name: pa.array(of, type=pa.large_string()) for name, of in zip(names, cells, strict=True)}
    return ManifestTable(path=path, columns=columns, lines=[line for line, _ in rows], problems=problems)


def _csv_rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells; empty lines are left out."""
    begins = reader.line_num + 1
    for cells in reader:
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def _read_json(path: Path) -> ManifestTable:
    problems: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not str.splitlines: JSON may hold other line separators of Unicode as they are.
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        row, problem = _json_row(line)
        if problem:
            problems[len(rows)] = problem
        rows.append(row)
        lines.append(number)
    if len(problems) == len(rows) > 0:
        raise ValueError(f"{path}, line {lines[0]}{problems[0]}. Expected one object {{…}} per line.")
    names = _column_names(path, list(dict.fromkeys(name for row in rows for name in row)))
    columns = {
        name: pa.array(
            [None if row.get(name) is None else json.dumps(row[name]) for row in rows],
            type=pa.large_string(),
        )
        for name in names
    }
    return ManifestTable(path=path, columns=columns, json_text=True, lines=lines, problems=problems)


def _json_row(line: str) -> tuple[dict[str, Any], str]:
    """A row, and what is wrong with it."""
    try:
        row = parse_json(line)
    except ValueError as error:
        return {}, f": is not JSON: {error}"
    if not isinstance(row, dict):
        return {}, f": expected a JSON object, got {type(row).__name__}"
    for name in row:
        # Characters that json.loads passes through are those of the broken file.
        if _is_broken(name) or _is_broken(json.dumps(row[name], ensure_ascii=False)):
            return {}, f", column {name.encode(errors='replace').decode()!r}: is not UTF-8; save the file as UTF-8"
    return row, ""


def _read_parquet(path: Path, *, max_bytes: int) -> ManifestTable:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = _column_names(path, [str(name) for name in file.schema_arrow.names])
            parts, problems = _row_groups(path, file, max_bytes=max_bytes)
            table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, _TooLargeError):
            raise
        raise ValueError(f"{path}: is no Parquet file that can be read: {error}.") from error
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        whole = column.combine_chunks()
        columns[name] = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
        _check_cells(columns[name], name, problems)
    return ManifestTable(path=path, columns=columns, problems=problems)


def _check_cells(column: Any, name: str, problems: dict[int, str]) -> None:
    """Finds the cells of a column that are not what its type says, such as text that is not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowException:
        for row in range(len(column)):
            try:
                column[row].as_py()
            except Exception as error:
                problems.setdefault(row, f", column {name!r}: cannot be decoded: {error}")


class _TooLargeError(ValueError):
    """A table does not fit into memory, and its rows cannot be told apart either."""


def _row_groups(path: Path, file: pq.ParquetFile, *, max_bytes: int) -> tuple[list[pa.Table], dict[int, str]]:
    """The row groups; in place of one that is too large, empty rows and what is wrong with each."""
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
    """One row group; None where it is larger than allowed, whatever the file claims."""
    group = file.metadata.row_group(number)
    columns = [group.column(index) for index in range(group.num_columns)]
    # A value may be written once for all rows that have it, so that a few rows have more bytes than the group.
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
    """A list of numbers, or of equally long lists of them and so on, without a Python object for each; None: no such."""
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


def _column_names(path: Path, names: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    if not any(names):
        raise ValueError(
            f"{path}: expected the names of columns, got an empty file. The first line of a CSV file names them."
        )
    for number, name in enumerate(names, start=1):
        if not name or _is_broken(name):
            raise ValueError(f"{path}: column {number} has no name that is UTF-8; the columns are {', '.join(names)!r}.")
        if names.count(name) > 1:
            raise ValueError(f"{path}: {names.count(name)} columns are called {name!r}; rename all but one.")
    return names


def _decoded(path: Path) -> str:
    """The text of a file; bytes that are not UTF-8 become surrogates, which are looked for cell by cell."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path}: is UTF-16; save it as UTF-8.")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: holds a zero byte, so it is no text file; save it as UTF-8 text.")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module reads fields of any length: documents and JSON stand in cells."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
