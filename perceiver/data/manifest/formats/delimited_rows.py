"""Manifests in CSV and other delimited text."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from perceiver.data.manifest.formats.table_file import TableFile, is_broken, named_columns
from perceiver.data.readers.delimited import decoded, read_delimited


def read_delimited_rows(
    path: Path, content: bytes, *, delimiter: str | None, encoding: str, header: Sequence[str] | None
) -> TableFile:
    """Read the content of a CSV file; for the arguments see `perceiver.data.manifest.table.read_table`.

    Raises:
        ValueError: the content is not CSV.
    """
    text = decoded(content, path=path, encoding=encoding, errors="surrogateescape")
    file = read_delimited(text, path=path, delimiter=delimiter, header=header)
    names = file.header
    chosen, repeated = named_columns(path, names)
    cells: list[list[str | None]] = [[] for _ in names]
    problems: dict[int, str] = {}
    for row, values in enumerate(file.rows):
        if len(values) != len(names):
            problems[row] = f": expected {len(names)} cells, as in the header, got {len(values)}"
            values = [*values[: len(names)], *[""] * (len(names) - len(values))]
        for column, value in enumerate(values):
            if is_broken(value):
                problems.setdefault(row, f", column {names[column]!r}: is not UTF-8; save the file as UTF-8")
                value = ""
            cells[column].append(value)
    columns = {name: pa.array(cells[number], type=pa.large_string()) for name, number in chosen.items()}
    return TableFile(path=path, columns=columns, lines=file.lines, problems=problems, repeated=repeated)
