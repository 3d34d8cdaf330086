"""Manifests in Parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perceiver.data.manifest.formats.arrow_columns import table_file
from perceiver.data.manifest.formats.class_labels import class_labels
from perceiver.data.manifest.formats.table_file import TableFile, named_columns

_BATCH_ROWS, _MOST_DECLINED = 1024, 10**6


def read_parquet_rows(path: Path, *, max_bytes: int) -> TableFile:
    """Read a Parquet file. Numbers that stand for classes become names, see `class_labels`.

    Args:
        path: path of the file.
        max_bytes: memory limit of a row group; rows of larger groups are empty, with a problem.

    Raises:
        ValueError: the file is not Parquet.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            chosen, repeated = named_columns(path, [str(name) for name in file.schema_arrow.names])
            labels = class_labels(file.schema_arrow.metadata)
            parts, problems = _row_groups(path, file, max_bytes=max_bytes)
            table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, _TooLargeError):
            raise
        raise ValueError(f"{path}: not a readable Parquet file: {error}.") from error
    return table_file(path, table, chosen=chosen, repeated=repeated, labels=labels, problems=problems)


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
    # Only as needed: a cast refuses valid lists of structs that have a field without any value.
    return [part if part.schema.equals(schema) else part.cast(schema) for part in parts], problems


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
