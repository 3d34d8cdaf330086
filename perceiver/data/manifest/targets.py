"""What is learned from a manifest: a class of each row, any number of labels, or values. One object for each kind."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from perceiver.data.manifest.columns import natural
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.readers.bounded_json import parse_json
from perceiver.modalities.table import number_of_name, plain_text, value_text
from perceiver.modalities.written_numbers import is_missing_number
from perceiver.targets.classes import classes_target
from perceiver.targets.labels import labels_target
from perceiver.targets.values import values_target

log = logging.getLogger(__name__)

SEPARATOR = ";"
"""Between the labels in a cell of text, by default."""


@runtime_checkable
class TargetColumns(Protocol):
    """Reads the targets of rows from a manifest."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Where they stand."""
        ...

    def problem(self, table: ManifestTable, row: int) -> str:
        """What is wrong with the target of a row, with its place, or an empty text."""
        ...

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """What each row is of where a split keeps shares alike; as many as rows."""
        ...

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """What the training rows say, for the spec: `target`, and how many outputs a model has.

        Raises:
            ValueError: nothing can be learned from them.
        """
        ...

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """What training, whose `spec["target"]` this is, does not know of the targets of rows, by row; most have nothing."""
        ...

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """The targets of rows: `(rows,)` class numbers, `(rows, labels)` booleans, or `(rows, values)` float64."""
        ...


class ClassColumn:
    """One class for each row.

    Args:
        columns: the one it stands in.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = _single(columns, "classes")

    def problem(self, table: ManifestTable, row: int) -> str:
        """An empty cell."""
        empty = table.cell(row, self.columns[0]) is None
        return f"{table.where(row, self.columns[0])}: has no target." if empty else ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """The classes."""
        return [value_text(self._class(table, row)) for row in rows]

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Names of classes in order, and how many rows are of each."""
        counts = Counter(self.strata(table, rows))
        if len(counts) < 2:
            raise ValueError(
                f"{table.path}, column {self.columns[0]!r}: expected two classes or more to tell apart, got only "
                f"{', '.join(map(repr, counts))} in the {len(rows)} training rows."
            )
        names = sorted(counts, key=natural)
        target = classes_target(names=names, counts=[counts[name] for name in names])
        return {"target": target, "num_classes": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Classes that training has not."""
        found = ((row, [self._class(table, row)]) for row in rows)
        return _unknown(table, found, column=self.columns[0], names=target["names"], words=("class", "classes"))

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """`(rows,)` int64."""
        names = target["names"]
        return torch.tensor([number_of_name(self._class(table, row), names) for row in rows], dtype=torch.int64)

    def _class(self, table: ManifestTable, row: int) -> str:
        return plain_text(table.cell(row, self.columns[0]))


class LabelsColumn:
    """Any number of labels for each row: text with separators between them, a list, or its JSON text; none in an empty cell.

    Args:
        columns: the one they stand in.
        separator: between the labels in a cell of text.
    """

    def __init__(self, columns: Sequence[str], *, separator: str = SEPARATOR) -> None:
        self.columns = _single(columns, "labels")
        if not separator:
            raise ValueError("data.label_separator: expected a text such as ';', got an empty one.")
        self.separator = separator

    def problem(self, table: ManifestTable, row: int) -> str:
        """What looks like JSON and is none."""
        try:
            self._labels(table, row)
        except ValueError as error:
            return f"{table.where(row, self.columns[0])}: {error}"
        return ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """The rarest label of each row, so that rare ones are not missing in training."""
        labels = [self._labels(table, row) for row in rows]
        counts = Counter(label for of_row in labels for label in of_row)
        return [min(of_row, key=lambda label: (counts[label], label), default="") for of_row in labels]

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Names of labels in order, and how many rows have each."""
        names = sorted({value_text(label) for row in rows for label in self._labels(table, row)}, key=natural)
        if not names:
            raise ValueError(
                f"{table.path}, column {self.columns[0]!r}: expected labels, with {self.separator!r} between them, got none "
                f"in the {len(rows)} training rows."
            )
        for other in ("|", ",", ";", "/", " "):
            parts = {part.strip() for name in names for part in name.split(other)}
            # Combinations of labels are more than labels.
            if len(parts) < len(names) and any(other in name for name in names):
                log.warning(
                    "%s, column %r: its %d labels, such as %r, look like %d labels with %r between them; set "
                    "data.label_separator if they are.",
                    *(table.path, self.columns[0], len(names), next(name for name in names if other in name)),
                    *(len(parts), other),
                )
        target = labels_target(names=names, training=self.values(table, rows, {"names": names}))
        if self.separator != SEPARATOR:
            target = {**target, "separator": self.separator}
        return {"target": target, "num_classes": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Labels that training has not."""
        found = ((row, self._labels(table, row)) for row in rows)
        return _unknown(table, found, column=self.columns[0], names=target["names"], words=("label", "labels"))

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """`(rows, labels)` boolean."""
        names = target["names"]
        marked = torch.zeros(len(rows), len(names), dtype=torch.bool)
        for index, row in enumerate(rows):
            marked[index, [number_of_name(label, names) for label in self._labels(table, row)]] = True
        return marked

    def _labels(self, table: ManifestTable, row: int) -> list[str]:
        cell = table.cell(row, self.columns[0])
        if isinstance(cell, str):
            if not cell.lstrip().startswith("["):
                cell = cell.split(self.separator)
            else:
                try:
                    cell = parse_json(cell)
                except ValueError as error:
                    raise ValueError(
                        f"expected labels with {self.separator!r} between them, or a JSON list: {error}."
                    ) from None
        entries = [] if cell is None else list(cell) if isinstance(cell, list | np.ndarray) else [cell]
        if any(isinstance(entry, list | dict) for entry in entries):
            raise ValueError(f"expected a flat list of labels, got {entries!r}.")
        return list(dict.fromkeys(text for entry in entries if entry is not None and (text := plain_text(entry))))


class ValueColumns:
    """A number for each row in each of one column or more, learned in standard deviations of the training rows.

    Args:
        columns: that they stand in.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)

    def problem(self, table: ManifestTable, row: int) -> str:
        """A missing value, or none that is a finite number."""
        for column in self.columns:
            cell = table.cell(row, column)
            if is_missing_number(cell):
                return f"{table.where(row, column)}: has no target."
            if isinstance(cell, bool) or not math.isfinite(_number(cell)):
                return f"{table.where(row, column)}: expected a number as target, got {cell!r}."
        return ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """All alike."""
        return [""] * len(rows)

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Names of columns, means and standard deviations."""
        names = list(self.columns)
        return {"target": values_target(names=names, training=self.values(table, rows, {})), "num_outputs": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Any number will do."""
        return {}

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """`(rows, columns)` float64, in their own units."""
        numbers = [[_number(table.cell(row, column)) for column in self.columns] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)


KINDS: dict[str, type[ClassColumn] | type[LabelsColumn] | type[ValueColumns]] = {
    "classes": ClassColumn,
    "labels": LabelsColumn,
    "values": ValueColumns,
}
"""By the kind that `spec["target"]` says."""


def target_columns(kind: str, columns: str | Sequence[str], *, separator: str | None = None) -> TargetColumns:
    """What reads targets of a kind; for `separator` see `LabelsColumn`.

    Raises:
        ValueError: an unknown kind, or several columns where one is expected.
    """
    if kind not in KINDS:
        raise ValueError(f"data.target_kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "labels" and separator is not None:
        return LabelsColumn([columns] if isinstance(columns, str) else list(columns), separator=separator)
    return KINDS[kind]([columns] if isinstance(columns, str) else list(columns))


def _single(columns: Sequence[str], kind: str) -> tuple[str]:
    if len(columns) != 1:
        raise ValueError(f"data.target: expected one column for target_kind={kind}, got {list(columns)}.")
    return (columns[0],)


def _unknown(
    table: ManifestTable,
    found: Iterable[tuple[int, Sequence[str]]],
    *,
    column: str,
    names: Sequence[str],
    words: tuple[str, str],
) -> dict[int, str]:
    one, many = words
    listed = ", ".join(sorted(names, key=natural)[:20])
    return {
        row: f"{table.where(row, column)}: {one} {new!r} is none of the {len(names)} {many} of training: {listed}."
        for row, labels in found
        if (new := next((label for label in labels if number_of_name(label, names) is None), None)) is not None
    }


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
