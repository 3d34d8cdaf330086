"""Text files with numbers in rows and columns, such as point sets, with or without a header."""

import re
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from perceiver.data.readers.delimited import DELIMITERS, is_index, numbers_of, read_delimited
from perceiver.modalities.cells.written_numbers import is_missing_number

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*|,\d+)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_COORDINATES = ("x", "y", "z")


def read_numbers(text: str, *, path: object, separators: Mapping[str, str] = MappingProxyType({})) -> NDArray[np.float64]:
    """Parse numbers `(rows, columns)` that are separated by commas, semicolons, tabs or spaces.

    Lines that begin with # are comments. Columns x, y and z come first, in this order, if a header names them; a column
    that numbers the rows is dropped. For `separators` see `numbers_of`.

    Raises:
        ValueError: a cell is empty or not a number, a comma could be either separator, or rows differ in length; the message
            names the row.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = _cells(lines, path=path)
    if not rows:
        raise ValueError(f"{path}: contains no numbers.")
    named = any(not is_missing_number(cell) and not _NUMBER.fullmatch(cell.strip()) for cell in rows[0])
    header = [cell.strip() for cell in rows[0]] if named else []
    rows = rows[1:] if named else rows
    width = len(header or rows[0])
    for number, row in enumerate(rows, start=1 + named):
        if len(row) != width:
            raise ValueError(
                f"{path}: expected numbers in rows of equal length: row {number} has {len(row)} cells, earlier rows "
                f"have {width}."
            )
    columns = []
    all_cells = list(zip(*rows, strict=True))
    for position, cells in enumerate(all_cells):
        name = header[position] if header else f"column {position + 1}"
        if position == width - 1 and not any(map(str.strip, cells)) and (not header or not name):
            break  # a delimiter at the end of each line
        where = partial(_place, path, name, 1 + named)
        column = numbers_of(cells, where, separators=separators, others=all_cells)
        if np.isnan(column).any():
            missing = int(np.isnan(column).argmax())
            raise ValueError(f"{where(missing)}: expected a number, got {cells[missing]!r}.")
        if not (header and _numbers_rows(name, column)):
            columns.append((name.lower(), column))
    # A stable sort keeps the order of the other columns.
    if set(_COORDINATES) <= {name for name, _ in columns}:
        columns.sort(key=lambda one: _COORDINATES.index(one[0]) if one[0] in _COORDINATES else len(_COORDINATES))
    if not columns or not rows:
        raise ValueError(f"{path}: contains no numbers.")
    return np.stack([column for _, column in columns], axis=1)


def _place(path: object, name: str, first: int, row: int) -> str:
    return f"{path}, row {first + row}, {name!r}"


def _cells(lines: list[str], *, path: object) -> list[list[str]]:
    words = [line.split() for line in lines]
    text = "\n".join(lines)
    # With spaces between numbers, commas may be decimal commas.
    spaced = not any(mark in text for mark in DELIMITERS) or (
        "\t" not in text and all(_NUMBER.fullmatch(word) for row in words[1:] or words for word in row)
    )
    if spaced and max(map(len, words), default=0) > 1:
        return words
    return read_delimited(text, path=path, header=()).rows


def _numbers_rows(name: str, column: NDArray[np.float64]) -> bool:
    return (is_index(name) or name.lower() in ("index", "id")) and bool((np.diff(column) == 1).all())
