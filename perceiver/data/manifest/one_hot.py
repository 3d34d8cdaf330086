"""Targets in a manifest as a column of 0 and 1 for each class or label."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.cells.values import value_text
from perceiver.targets.classes import classes_target
from perceiver.targets.labels import labels_target

log = logging.getLogger(__name__)

_MARKS = {"0": 0, "1": 1, "False": 0, "True": 1}
_MISSING, _INVALID = -1, -2


class OneHotColumns:
    """A class per row, or any number of labels, in columns that are named like them. See `TargetColumns`.

    Args:
        columns: a column of 0 and 1, or of truth values, for each class or label.
        kind: "classes" or "labels". None: classes if each row has exactly one 1, otherwise labels.
    """

    def __init__(self, columns: Sequence[str], *, kind: str | None = None) -> None:
        self.columns = tuple(columns)
        self.kind = kind
        self._read: tuple[ManifestTable, NDArray[np.int8]] | None = None

    def problem(self, table: ManifestTable, row: int) -> str:
        """Report a cell that is neither 0 nor 1 and, for classes, a row without exactly one 1."""
        marks = self._marks(table)[row]
        for column, mark in zip(self.columns, marks, strict=True):
            if mark == _MISSING:
                return f"{table.where(row, column)}: has no target."
            if mark == _INVALID:
                return (
                    f"{table.where(row, column)}: expected 0 or 1, since data.target names several columns, got "
                    f"{table.cell(row, column)!r:.60}; for numbers set data.target_kind=values."
                )
        if self.kind == "classes" and marks.sum() != 1:
            return (
                f"{table.where(row)}: expected 1 in exactly one of the columns {', '.join(self.columns)}, got "
                f"{self._named(marks)}; for several labels set data.target_kind=labels."
            )
        return ""

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the class of each row, or its rarest label."""
        marks = self._marks(table)[list(rows)]
        order = marks.sum(axis=0).argsort(kind="stable")
        return [next((self.columns[column] for column in order if mark[column]), "") for mark in marks]

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return names in the order of the columns, without those that no training row has, and their numbers of rows."""
        counts = self._marks(table)[list(rows)].sum(axis=0, dtype=np.int64)
        names = [name for name, count in zip(self.columns, counts, strict=True) if count > 0]
        if len(names) < (2 if self.kind == "classes" else 1):
            raise ValueError(
                f"{table.path}: expected rows of two classes or more in the columns {', '.join(self.columns)}, got only "
                f"{', '.join(names) or 'zeros'} in the {len(rows)} training rows."
            )
        if self.kind == "classes":
            target = classes_target(names=names, counts=[int(count) for count in counts if count > 0])
        else:
            target = labels_target(names=names, training=self.values(table, rows, {"names": names}))
        return {"target": {**target, "columns": list(self.columns)}, "num_classes": len(names)}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Report classes and labels without training rows."""
        new = [number for number, name in enumerate(self.columns) if name not in target["names"]]
        marks = self._marks(table)
        return {
            row: f"{table.where(row, self.columns[number])}: no training row has this target; known are "
            f"{', '.join(target['names'])}."
            for number in new
            for row in rows
            if marks[row, number] == 1
        }

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> Tensor:
        """Return class numbers `(rows,)`, int64, or labels `(rows, labels)`, boolean."""
        places = [self.columns.index(name) for name in target["names"]]
        marks = torch.from_numpy(self._marks(table)[list(rows)][:, places] == 1)
        return marks.to(torch.int64).argmax(dim=1) if self.kind == "classes" else marks

    def _marks(self, table: ManifestTable) -> NDArray[np.int8]:
        """Return 0 and 1 of all rows, `(rows, columns)`, read once; negative numbers stand for unusable cells."""
        if self._read is None or self._read[0] is not table:
            cells = [[_mark(table.cell(row, column)) for column in self.columns] for row in range(len(table))]
            self._read = table, np.array(cells, dtype=np.int8).reshape(len(table), len(self.columns))
            if self.kind is None:
                self.kind = self._found(table)
        return self._read[1]

    def _found(self, table: ManifestTable) -> str:
        marks = self._marks(table)
        marks = marks[(marks >= 0).all(axis=1)]
        single = bool(len(marks)) and bool((marks.sum(axis=1) == 1).all())
        log.info(
            "%s, columns %s: %s. Set data.target_kind to override.",
            *(table.path, ", ".join(self.columns)),
            "each row has exactly one 1, so they are classes"
            if single
            else "some rows have no 1 or several, so they are labels (task=multilabel)",
        )
        return "classes" if single else "labels"

    def _named(self, marks: NDArray[np.int8]) -> str:
        return ", ".join(name for name, mark in zip(self.columns, marks, strict=True) if mark) or "only zeros"


def _mark(value: Any) -> int:
    if value is None:
        return _MISSING
    return _MARKS.get(value_text(value), _INVALID) if isinstance(value, str | int | float) else _INVALID
