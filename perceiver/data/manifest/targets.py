"""Targets in a manifest: a class per row, any number of labels, or values. Each kind of target has a class here."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from perceiver.data.manifest.columns import natural
from perceiver.data.manifest.one_hot import OneHotColumns
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.manifest.text_targets import TextColumn, TextTargets
from perceiver.data.readers.bounded.json_files import parse_json
from perceiver.modalities.cells.values import number_of_name, plain_text, value_text
from perceiver.modalities.cells.written_numbers import how_numbers_are_written, is_missing_number, number_of
from perceiver.targets.classes import classes_target
from perceiver.targets.labels import labels_target
from perceiver.targets.values import values_target

log = logging.getLogger(__name__)

AUTO = "auto"
"""The kind of target that the columns suggest."""

SEPARATOR = ";"
"""Default separator of labels in a text cell."""


class AmbiguousNumbersError(ValueError):
    """The numbers of a column may be meant in two ways, so that no row of it can be read."""


@runtime_checkable
class TargetColumns(Protocol):
    """Reads the targets of rows from a manifest."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the target."""
        ...

    def problem(self, table: ManifestTable, row: int) -> str:
        """Return the problem with the target of a row, with its place, or an empty string."""
        ...

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the stratum of each row for stratified splits."""
        ...

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return entries of the spec learned from the training rows: `target`, and the number of model outputs.

        Raises:
            ValueError: nothing can be learned from these rows.
        """
        ...

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Return problems by row for targets that are unseen in training, given the training `spec["target"]`."""
        ...

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor | TextTargets:
        """Return the targets of rows: `(rows,)` class numbers, `(rows, labels)` booleans, `(rows, values)` float64.

        Texts have ids of different lengths.
        """
        ...


class ClassColumn:
    """A class per row.

    Args:
        columns: the single column of classes.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = _single(columns, "classes")

    def problem(self, table: ManifestTable, row: int) -> str:
        """Report an empty cell."""
        empty = table.cell(row, self.columns[0]) is None
        return f"{table.where(row, self.columns[0])}: has no target." if empty else ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the classes."""
        return [value_text(self._class(table, row)) for row in rows]

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return the class names in order, and the number of rows per class."""
        counts = Counter(self.strata(table, rows))
        if len(counts) < 2:
            raise ValueError(
                f"{table.path}, column {self.columns[0]!r}: expected two or more classes, got only "
                f"{', '.join(map(repr, counts))} in the {len(rows)} training rows."
            )
        names = sorted(counts, key=natural)
        target = classes_target(names=names, counts=[counts[name] for name in names])
        return {"target": target, "num_classes": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Report classes unseen in training."""
        found = ((row, [self._known(table, row, target["names"])]) for row in rows)
        return _unknown(table, found, column=self.columns[0], names=target["names"], words=("class", "classes"))

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """Return class numbers `(rows,)`, int64."""
        names = target["names"]
        known = [self._known(table, row, names) for row in rows]
        return torch.tensor([number_of_name(name, names) for name in known], dtype=torch.int64)

    def _known(self, table: ManifestTable, row: int, names: Sequence[str]) -> str:
        """Return the class of a row; its number if the model was trained on numbers, before files named them."""
        name = self._class(table, row)
        class_names = table.class_names.get(self.columns[0], ())
        if number_of_name(name, names) is None and name in class_names:
            number = str(list(class_names).index(name))
            return number if number_of_name(number, names) is not None else name
        return name

    def _class(self, table: ManifestTable, row: int) -> str:
        return plain_text(table.cell(row, self.columns[0]))


class LabelsColumn:
    """Any number of labels per row: separated text, a list, or its JSON text. An empty cell has no labels.

    Args:
        columns: the single column of labels.
        separator: separator of labels in a text cell.
    """

    def __init__(self, columns: Sequence[str], *, separator: str = SEPARATOR) -> None:
        self.columns = _single(columns, "labels")
        if not separator:
            raise ValueError("data.label_separator: expected a string such as ';', got an empty string.")
        self.separator = separator

    def problem(self, table: ManifestTable, row: int) -> str:
        """Report invalid JSON."""
        try:
            self._labels(table, row)
        except ValueError as error:
            return f"{table.where(row, self.columns[0])}: {error}"
        return ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the rarest label of each row, so that rare labels are not missing in training."""
        labels = [self._labels(table, row) for row in rows]
        counts = Counter(label for of_row in labels for label in of_row)
        return [min(of_row, key=lambda label: (counts[label], label), default="") for of_row in labels]

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return the label names in order, and the number of rows per label."""
        names = sorted({value_text(label) for row in rows for label in self._labels(table, row)}, key=natural)
        if not names:
            raise ValueError(
                f"{table.path}, column {self.columns[0]!r}: expected labels separated by {self.separator!r}, got none "
                f"in the {len(rows)} training rows."
            )
        for other in ("|", ",", ";", "/", " "):
            parts = {part.strip() for name in names for part in name.split(other)}
            # There are more combinations of labels than labels.
            if len(parts) < len(names) and any(other in name for name in names):
                log.warning(
                    "%s, column %r: its %d labels, such as %r, look like %d labels separated by %r; if they are, set "
                    "data.label_separator.",
                    *(table.path, self.columns[0], len(names), next(name for name in names if other in name)),
                    *(len(parts), other),
                )
        target = labels_target(names=names, training=self.values(table, rows, {"names": names}))
        if self.separator != SEPARATOR:
            target = {**target, "separator": self.separator}
        return {"target": target, "num_classes": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Report labels unseen in training."""
        found = ((row, self._labels(table, row)) for row in rows)
        return _unknown(table, found, column=self.columns[0], names=target["names"], words=("label", "labels"))

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """Return `(rows, labels)`, boolean."""
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
                    raise ValueError(f"expected labels separated by {self.separator!r}, or a JSON list: {error}.") from None
        entries = [] if cell is None else list(cell) if isinstance(cell, list | np.ndarray) else [cell]
        if any(isinstance(entry, list | dict) for entry in entries):
            raise ValueError(f"expected a flat list of labels, got {entries!r}.")
        return list(dict.fromkeys(text for entry in entries if entry is not None and (text := plain_text(entry))))


class ValueColumns:
    """A number per row and column, learned in standard deviations of the training rows.

    Args:
        columns: columns of values.
        decimal, thousands: separators of numbers as text. None: detected, see `how_numbers_are_written`.
        written: format of columns in training, which replaces detection; see `number_of`.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        decimal: str | None = None,
        thousands: str | None = None,
        written: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self.decimal = decimal
        self.thousands = thousands
        self._written: dict[str, Mapping[str, str]] = dict(written or {})

    def problem(self, table: ManifestTable, row: int) -> str:
        """Report a value that is missing or not a finite number."""
        for column in self.columns:
            cell = table.cell(row, column)
            if is_missing_number(cell):
                return f"{table.where(row, column)}: has no target."
            if not math.isfinite(self._number(table, row, column)):
                return f"{table.where(row, column)}: expected a number as target, got {cell!r}."
        return ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the same stratum for all rows."""
        return [""] * len(rows)

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return column names, means and standard deviations."""
        names = list(self.columns)
        target = values_target(names=names, training=self.values(table, rows, {}))
        if written := {name: dict(style) for name, style in self._written.items() if style}:
            target = {**target, "written": written}
        return {"target": target, "num_outputs": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Report nothing: any number is valid."""
        return {}

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """Return `(rows, columns)`, float64, in the original units."""
        numbers = [[self._number(table, row, column) for column in self.columns] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64)

    def _number(self, table: ManifestTable, row: int, column: str) -> float:
        """Return the number in a cell; NaN if it is none."""
        try:
            return number_of(table.cell(row, column), self._style(table, column))
        except AmbiguousNumbersError:
            raise
        except (TypeError, ValueError):
            return math.nan

    def _style(self, table: ManifestTable, column: str) -> Mapping[str, str]:
        """Return the format of the numbers in a column; detected once, in all rows."""
        if column not in self._written:
            cells = [table.cell(row, column) for row in range(len(table))]
            try:
                style, _ = how_numbers_are_written(cells, decimal=self.decimal, thousands=self.thousands)
            except ValueError as error:
                raise AmbiguousNumbersError(
                    f"{table.path}, column {column!r}: {error}; for targets, these are data.decimal and data.thousands."
                ) from None
            self._written[column] = style
            if how := ", ".join(f"{key}: {one}" for key, one in style.items() if one):
                log.info("column %r: target read as numbers (%s).", column, how)
        return self._written[column]


KINDS: dict[str, type[TargetColumns]] = {
    "classes": ClassColumn,
    "labels": LabelsColumn,
    "values": ValueColumns,
    "text": TextColumn,
}
"""Target classes by the kind in `spec["target"]`."""


def target_columns(
    kind: str,
    columns: str | Sequence[str],
    *,
    separator: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    written: Mapping[str, Mapping[str, str]] | None = None,
    text: Mapping[str, Any] | None = None,
) -> TargetColumns:
    """Make the reader of targets.

    Args:
        kind: kind of target. "auto": classes in one column; in several, see `OneHotColumns`.
        columns: one column, or several for values and for one-hot classes or labels.
        separator: see `LabelsColumn`.
        decimal, thousands, written: see `ValueColumns`.
        text: arguments of `TextColumn`.

    Raises:
        ValueError: the kind is unknown, or columns are missing or repeated.
    """
    if kind not in (AUTO, *KINDS):
        raise ValueError(f"data.target_kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    names = [columns] if isinstance(columns, str) else [str(column) for column in columns]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"data.target: expected one column or more, each once, got {names}.")
    if kind == "values":
        return ValueColumns(names, decimal=decimal, thousands=thousands, written=written)
    if kind == "text":
        return TextColumn(names, **(text or {}))
    if len(names) > 1:
        return OneHotColumns(names, kind=None if kind == AUTO else kind)
    return (
        LabelsColumn(names, separator=SEPARATOR if separator is None else separator)
        if kind == "labels"
        else ClassColumn(names)
    )


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
        row: f"{table.where(row, column)}: {one} {new!r} is not one of the {len(names)} {many} in training: {listed}."
        for row, labels in found
        if (new := next((label for label in labels if number_of_name(label, names) is None), None)) is not None
    }
