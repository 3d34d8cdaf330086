"""Split of manifest rows into training, validation and test: by a column, by a seeded, stratified split, or by folds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from perceiver.data.loading.folds import Fold
from perceiver.data.loading.groups import grouped_split, require_undivided
from perceiver.data.loading.splits import SPLIT_NAMES, stratified_split
from perceiver.data.manifest.rows import BadRows
from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.cells.values import value_text


@dataclass(kw_only=True)
class Splits:
    """Row positions of each split, ascending."""

    train: list[int]
    val: list[int]
    test: list[int]

    def among(self, rows: Collection[int]) -> Splits:
        """Return the same splits without other rows."""
        train, val, test = ([row for row in own if row in rows] for own in (self.train, self.val, self.test))
        return Splits(train=train, val=val, test=test)


def split_rows(
    rows: Sequence[int],
    *,
    classes: Sequence[str],
    table: ManifestTable,
    column: str | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    bad: BadRows,
    cut_test: bool = False,
    group: str | None = None,
    fold: Fold | None = None,
) -> Splits:
    """Split rows by a column, or stratified by class. Without validation rows in the column, some are split off.

    With a fold, the test rows are its rows; the column only leaves its test rows out of all splits.

    Args:
        rows: rows of the table.
        classes: classes or other strata of these rows, in the same order.
        table: the manifest.
        column: column of splits; None: no such column.
        validation_fraction: share of the non-test rows.
        test_fraction: share of the rows; used without a column.
        seed: seed of the split.
        bad: handles rows with an invalid split or without a group.
        cut_test: without test rows in the column, split some off, too.
        group: column of groups, which no split divides; None: rows are split one by one.
        fold: the fold that is the test split; None: no cross-validation.

    Raises:
        ValueError: no training rows are left, or the column of splits divides a group.
    """
    splits = Splits(train=[], val=[], test=[])
    class_of = dict(zip(rows, classes, strict=True))
    group_of = None if group is None else _groups(table, rows, group, bad)
    if group_of is not None:
        rows = list(group_of)

    def taken(of: list[int], fraction: float, name: str) -> tuple[list[int], list[int]]:
        if group_of is None:
            return _stratified(of, class_of, fraction=fraction, seed=seed, name=name)
        return _whole_groups(of, class_of, group_of, fraction=fraction, seed=seed, name=name)

    if column is None and fold is None:
        splits.train, splits.test = taken(list(rows), test_fraction, "data.test_fraction")
    elif column is not None:
        for row in rows:
            split = split_of(table, row, column)
            if split is None:
                bad.report(row, f"{table.where(row, column)}: expected train, val or test, got {table.cell(row, column)!r}.")
            else:
                getattr(splits, split).append(row)
        if cut_test and fold is None and splits.train and not splits.test:
            splits.train, splits.test = taken(splits.train, test_fraction, "data.test_fraction")
    if fold is not None:
        pool = list(rows) if column is None else sorted([*splits.train, *splits.val])
        groups = None if group_of is None else [group_of[row] for row in pool]
        kept, held_out = fold.split(_numbered(pool, class_of), seed=seed, name=table.path, groups=groups)
        splits = Splits(train=[pool[index] for index in kept], val=[], test=[pool[index] for index in held_out])
    elif group_of is not None:
        by_split = {"train": splits.train, "val": splits.val, "test": splits.test}
        require_undivided({name: [group_of[row] for row in own] for name, own in by_split.items()}, name=table.path)
    if not splits.val and splits.train:
        splits.train, splits.val = taken(splits.train, validation_fraction, "data.validation_fraction")
    return splits


def split_of(table: ManifestTable, row: int, column: str) -> str | None:
    """Return the split of a row by a column: train, val or test; None for other values."""
    value = table.cell(row, column)
    return None if value is None else SPLIT_NAMES.get(value_text(value).lower())


def _stratified(
    rows: list[int], class_of: dict[int, str], *, fraction: float, seed: int, name: str
) -> tuple[list[int], list[int]]:
    """Return the rows that stay and those taken out; classes with one or two rows stay whole, so that training sees them."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[class_of[row]] = counts.get(class_of[row], 0) + 1
    common = [row for row in rows if counts[class_of[row]] > 2]
    size = round(fraction * len(rows))
    if fraction > 0:
        size = max(1, size)
    if size == 0:
        return rows, []
    if size >= len(rows):
        return [], rows
    if size >= len(common):
        raise ValueError(
            f"{name}: {size} of {len(rows)} rows exceed the rows available in classes with at least three rows; "
            f"reduce it (now {fraction}), or name a split column with data.split=NAME."
        )
    _, taken = stratified_split(_numbered(common, class_of), size=size, seed=seed, name=name)
    out = {common[int(index)] for index in taken}
    return [row for row in rows if row not in out], sorted(out)


def _whole_groups(
    rows: list[int], class_of: dict[int, str], group_of: dict[int, str], *, fraction: float, seed: int, name: str
) -> tuple[list[int], list[int]]:
    """Return the rows that stay and those taken out, in whole groups."""
    size = round(fraction * len(rows))
    if fraction == 0:
        return rows, []
    if size >= len(rows):
        return [], rows
    groups = [group_of[row] for row in rows]
    kept, taken = grouped_split(_numbered(rows, class_of), groups, size=max(1, size), seed=seed, name=name)
    return [rows[index] for index in kept], [rows[index] for index in taken]


def _groups(table: ManifestTable, rows: Sequence[int], column: str, bad: BadRows) -> dict[int, str]:
    """Return the group of each row; reports rows without a group."""
    found = {}
    for row in rows:
        value = table.cell(row, column)
        if value is None:
            bad.report(row, f"{table.where(row, column)}: expected a group (data.group={column}), got an empty cell.")
        else:
            found[row] = value_text(value)
    return found


def _numbered(rows: Sequence[int], class_of: dict[int, str]) -> Int[Tensor, "rows"]:
    """Return the classes of rows as numbers, in the order of their names among these rows."""
    numbers = {label: number for number, label in enumerate(sorted({class_of[row] for row in rows}))}
    return torch.tensor([numbers[class_of[row]] for row in rows], dtype=torch.int64)
