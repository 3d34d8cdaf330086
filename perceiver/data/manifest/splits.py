"""Split of manifest rows into training, validation and test, by a column or by a seeded, stratified split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from perceiver.data.loading.splits import SPLIT_NAMES, stratified_split
from perceiver.data.manifest.rows import BadRows
from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.cell_values import value_text


@dataclass(kw_only=True)
class Splits:
    """Row positions of each split, ascending."""

    train: list[int]
    val: list[int]
    test: list[int]


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
) -> Splits:
    """Split rows by a column, or stratified by class. Without validation rows in the column, some are split off.

    Args:
        rows: rows of the table.
        classes: classes or other strata of these rows, in the same order.
        table: the manifest.
        column: column of splits; None: no such column.
        validation_fraction: share of the non-test rows.
        test_fraction: share of the rows; used without a column.
        seed: seed of the split.
        bad: handles rows with an invalid split.
        cut_test: without test rows in the column, split some off, too.

    Raises:
        ValueError: no training rows are left.
    """
    splits = Splits(train=[], val=[], test=[])
    class_of = dict(zip(rows, classes, strict=True))
    if column is None:
        splits.train, splits.test = _stratified(
            list(rows), class_of, fraction=test_fraction, seed=seed, name="data.test_fraction"
        )
    else:
        for row in rows:
            split = split_of(table, row, column)
            if split is None:
                bad.report(row, f"{table.where(row, column)}: expected train, val or test, got {table.cell(row, column)!r}.")
            else:
                getattr(splits, split).append(row)
        if cut_test and splits.train and not splits.test:
            splits.train, splits.test = _stratified(
                splits.train, class_of, fraction=test_fraction, seed=seed, name="data.test_fraction"
            )
    if not splits.val and splits.train:
        splits.train, splits.val = _stratified(
            splits.train, class_of, fraction=validation_fraction, seed=seed, name="data.validation_fraction"
        )
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
    numbers = {label: number for number, label in enumerate(sorted(counts))}
    labels = torch.tensor([numbers[class_of[row]] for row in common])
    _, taken = stratified_split(labels, size=size, seed=seed, name=name)
    out = {common[int(index)] for index in taken}
    return [row for row in rows if row not in out], sorted(out)
