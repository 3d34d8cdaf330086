"""Delimited text files with a header: manifests, time series and point sets."""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perceiver.modalities.cells.written_numbers import is_missing_number, number_of

DELIMITERS = "\t;|,"
"""Delimiters to try, the least likely inside a cell first."""

# A comma that is not between a digit other than 0 and groups of three digits is no separator of thousands.
_DECIMAL_COMMA = re.compile(r"[+\-\u2212]?\s*(?![1-9]\d{0,2}(,\d{3})+$)\d*,\d+([eE][+-]?\d+)?")

_LOOKED_AT, _LOOKED_AT_CHARACTERS = 200, 2**20  # rows


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """Content of a delimited file.

    Args:
        header: stripped column names; unnamed columns are empty strings.
        rows: the cells of each row, possibly more or fewer than column names.
        lines: line at which each row begins, from 1.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    @property
    def columns(self) -> dict[str, int]:
        """Return the position of each column with a unique name."""
        return distinct(self.header)


def distinct(header: Sequence[str]) -> dict[str, int]:
    """Return the position of each name that is neither empty nor repeated."""
    counts = Counter(header)
    return {name: number for number, name in enumerate(header) if name and counts[name] == 1}


def is_index(name: str) -> bool:
    """Return whether a column numbers rows: pandas writes it unnamed, and may name it on rereading."""
    return not name or re.fullmatch(r"Unnamed: \d+", name) is not None


def read_delimited(
    text: str, *, path: object, delimiter: str | None = None, header: Sequence[str] | None = None
) -> Delimited:
    """Parse a delimited text.

    All three usual line endings are accepted. Cells may be in double quotes. In a text with tabs, quotes that do not
    enclose a cell are ordinary characters.

    Args:
        text: text of the file.
        path: path of the file, for messages.
        delimiter: delimiter between cells. None: the delimiter that gives most rows as many cells as the first row.
        header: column names of a file whose first line does not have them.

    Raises:
        ValueError: quotes do not match; the message names the line.
    """
    with _long_fields():
        if delimiter is None:
            delimiter = _delimiter(text)
        try:
            lines, rows = _parsed(text, delimiter, quoting=csv.QUOTE_MINIMAL)
        except ValueError as error:
            if delimiter != "\t":
                raise ValueError(f"{path}, {error}. Check the quotes around it.") from error
            lines, rows = _parsed(text, delimiter, quoting=csv.QUOTE_NONE)
        else:
            # A quote that is closed late or never turns many lines into a single cell.
            if delimiter == "\t" and len(rows) > 0 and any("\n" in cell or "\r" in cell for row in rows for cell in row):
                plain = _parsed(text, delimiter, quoting=csv.QUOTE_NONE)
                if all(len(row) == len(plain[1][0]) for row in plain[1]):
                    lines, rows = plain
    if header is None:
        names, lines, rows = (rows[0] if rows else []), lines[1:], rows[1:]
    else:
        names = list(header)
    return Delimited(header=[name.strip() for name in names], rows=rows, lines=lines)


def _delimiter(text: str) -> str:
    text = text[:_LOOKED_AT_CHARACTERS]
    best, best_share = ",", -1.0
    for candidate in DELIMITERS:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if candidate == "\t" else csv.QUOTE_MINIMAL
        try:
            _, rows = _parsed(text, candidate, quoting=quoting, at_most=_LOOKED_AT)
        except ValueError:
            # Either the file has errors, or this is not its delimiter.
            rows = [line.split(candidate) for line in text.splitlines()[:_LOOKED_AT] if line]
        columns = len(rows[0]) if rows else 1
        share = sum(len(row) == columns for row in rows[1:]) / max(len(rows) - 1, 1)
        if columns > 1 and share > best_share:
            best, best_share = candidate, share
    return best


def _parsed(
    text: str, delimiter: str, *, quoting: Literal[0, 3], at_most: int | None = None
) -> tuple[list[int], list[list[str]]]:
    """Return the first line of each row, and its cells; empty lines are skipped."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=quoting != csv.QUOTE_NONE
    )
    lines, rows, begins = [], [], 1
    try:
        for row in reader:
            if row:
                lines.append(begins)
                rows.append(row)
            begins = reader.line_num + 1
            if len(rows) == at_most:
                break
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: is not CSV: {error}") from error
    return lines, rows


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, since cells may hold documents and JSON."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def numbers_of(
    column: Sequence[str],
    where: Callable[[int], str],
    *,
    separators: Mapping[str, str] = MappingProxyType({}),
    others: Iterable[Sequence[str]] = (),
) -> NDArray[np.float64]:
    """Return the numbers in a column, with decimal points or commas; missing numbers are NaN.

    Args:
        column: cells of the column.
        where: returns the place of a cell, for messages.
        separators: `decimal` and `thousands` separators. Empty: detect decimal commas.
        others: other columns of the file, which may show that its commas are decimal commas.

    Raises:
        ValueError: a cell is not a number, or a comma before three digits could be either separator in all cells.
    """
    written = {"decimal": ".", "thousands": "", "unit": "", **separators} if separators else {}
    if not separators:
        try:
            return np.array(column, dtype=np.float64)
        except ValueError:
            pass
        known = [text for text in column if not is_missing_number(text)]
        commas = [text for text in known if "," in text]
        if commas and not any("." in text for text in known):
            if not any(_DECIMAL_COMMA.fullmatch(text.strip()) for cells in (commas, *others) for text in cells):
                raise ValueError(
                    f"{where(column.index(commas[0]))}: {commas[0]!r} may be written with a decimal comma or with a comma "
                    "for thousands. Set decimal or thousands of the modality to ','."
                )
            written = {"decimal": ",", "thousands": "", "unit": ""}
    values = np.full(len(column), np.nan)
    for row, text in enumerate(column):
        if is_missing_number(text):
            continue
        try:
            values[row] = number_of(text, written)
        except ValueError:
            raise ValueError(f"{where(row)}: expected a number, got {text!r}.") from None
    return values


def decoded(content: bytes, *, path: object, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Decode the text of a file, without a byte order mark.

    Args:
        content: content of the file.
        path: path of the file, for messages.
        encoding: encoding of the text.
        errors: handling of invalid bytes, see `bytes.decode`.

    Raises:
        ValueError: the content is not text in that encoding; the message names the line.
    """
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    if encoding == "utf-8-sig":
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path}: is UTF-16; save it as UTF-8.")
        if b"\0" in content:
            line = content[: content.index(b"\0")].count(b"\n") + 1
            raise ValueError(f"{path}, line {line}: contains a zero byte, so it is not a text file. Save it as UTF-8 text.")
    try:
        return content.decode(encoding, errors=errors if encoding == "utf-8-sig" else "strict")
    except LookupError:
        raise ValueError(f"data.encoding: expected an encoding such as utf-8 or latin-1, got {encoding!r}.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        wanted = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise ValueError(f"{path}, line {line}: is not {wanted}; save the file as UTF-8.") from None
