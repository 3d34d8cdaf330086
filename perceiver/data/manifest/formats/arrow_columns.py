"""Columns of Arrow tables as columns of a manifest: text, class names, and cells that are damaged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from perceiver.data.manifest.formats.class_labels import with_class_names
from perceiver.data.manifest.formats.table_file import TableFile


def table_file(
    path: Path,
    table: pa.Table,
    *,
    chosen: Mapping[str, int],
    repeated: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    problems: dict[int, str],
    mapped: bool = False,
) -> TableFile:
    """Return the columns of an Arrow table. Numbers that stand for classes become names.

    Args:
        path: path of the file, for messages.
        table: the content of the file.
        chosen: positions of the columns, by name.
        repeated: names of several columns.
        labels: class names by the name of a column in the table, see `class_labels`.
        problems: rows that could not be read, with reasons.
        mapped: leave columns in the chunks of a file that is mapped into memory, instead of copying them.
    """
    columns: dict[str, Any] = {}
    class_names: dict[str, list[str]] = {}
    for name, number in chosen.items():
        column = _storage(table.column(number))
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        whole = column if mapped else column.combine_chunks()
        columns[name] = _as_text(whole if mapped or isinstance(whole, pa.Array) else whole.combine_chunks())
        columns[name] = _without_damaged(columns[name], name, problems)
        if (names := labels.get(table.column_names[number])) is not None:
            named = with_class_names(columns[name], names, column_name=name, problems=problems)
            if named is not None:
                columns[name], class_names[name] = named, list(names)
    return TableFile(path=path, columns=columns, problems=problems, repeated=repeated, class_names=class_names)


def _storage(column: Any) -> Any:
    """Return what a column of an extension type, such as a matrix of `datasets`, is stored as."""
    while isinstance(column.type, pa.BaseExtensionType):
        kind = column.type.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], type=kind)
    return column


def _as_text(column: Any) -> Any:
    """Convert a column of bytes to text if all cells are text, as some programs write it; keep others, e.g. images."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column
    try:
        text = column.cast(pa.large_string())
    except pa.ArrowException:
        return column
    return column if pc.any(pc.match_substring(text, "\0")).as_py() else text


def _without_damaged(column: Any, name: str, problems: dict[int, str]) -> Any:
    """Empty the cells of a column that do not match its type, such as text that is not UTF-8; each is a problem."""
    try:
        column.validate(full=True)
    except pa.ArrowException:
        kept: list[int | None] = list(range(len(column)))
        for row in range(len(column)):
            try:
                column[row].as_py()
            except Exception as error:
                problems.setdefault(row, f", column {name!r}: cannot be decoded: {error}")
                kept[row] = None
        return column.take(pa.array(kept, type=pa.int64()))
    return column
