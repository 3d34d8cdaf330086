"""The columns of one manifest file, whatever its format."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perceiver.data.readers.delimited import distinct

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """Columns of a file.

    Args:
        path: path of the file.
        columns: Arrow arrays of equal length, by name.
        json_text: whether the columns hold JSON.
        lines: line at which each row begins in a text file, from 1; None: rows are counted from 1.
        problems: rows that could not be read, with reasons.
        repeated: repeated column names, which are not in `columns`.
        class_names: names of the classes that a column's numbers stood for, by column.
    """

    path: Path
    columns: Mapping[str, Any]
    json_text: bool = False
    lines: Sequence[int] | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    repeated: Sequence[str] = ()
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def named_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return the positions of the uniquely named columns, by name, and the repeated names.

    Columns without a unique name are left out: they do no harm unless they are requested.

    Raises:
        ValueError: no column has a name.
    """
    names = [name.strip() for name in names]
    if not any(names):
        raise ValueError(f"{path}: expected column names, found none. In a CSV file they are on the first line.")
    chosen = {name: number for name, number in distinct(names).items() if not is_broken(name)}
    if unnamed := [number for number, name in enumerate(names, start=1) if not name or is_broken(name)]:
        log.info("%s: columns without a name are left out: %s.", path, ", ".join(map(str, unnamed)))
    return chosen, sorted({name for name in names if name and name not in chosen and not is_broken(name)})


def is_broken(text: str) -> bool:
    """Return whether a text was decoded from bytes that are not UTF-8."""
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)
