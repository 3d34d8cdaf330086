"""Which rows of a manifest are for training, for validation and for the test: a column says, or a seeded split by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from perceiver.data.loading.splits import SPLIT_NAMES, stratified_split
from perceiver.data.manifest.rows import BadRows
from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.table import value_text


@dataclass(kw_only=True)
class Splits:
    """Rows by position, each ascending."""

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
) -> Splits:
    """Splits rows by a column, or else class by class. A column without validation rows leaves these to be split off.

    Args:
        rows: of the table.
        classes: of these rows, in the same order, or whatever else a split keeps shares alike of.
        table: the manifest.
        column: of the splits; None: there is none.
        validation_fraction: share of the rows that are not for the test.
        test_fraction: share of the rows; counts without a column.
        seed: which of the possible splits.
        bad: what to do with a row of a split that is none.

    Raises:
        ValueError: nothing is left to train on.
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
    if not splits.val and splits.train:
        splits.train, splits.val = _stratified(
            splits.train, class_of, fraction=validation_fraction, seed=seed, name="data.validation_fraction"
        )
    return splits


def split_of(table: ManifestTable, row: int, column: str) -> str | None:
    """The split of a row by a column: train, val or test. None: it is none of these."""
    said = table.cell(row, column)
    return None if said is None else SPLIT_NAMES.get(value_text(said).lower())


def _stratified(
    rows: list[int], class_of: dict[int, str], *, fraction: float, seed: int, name: str
) -> tuple[list[int], list[int]]:
    """What stays and what is taken out; a class of one or two rows stays whole, so that training knows it."""
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
            f"{name}: {size} of {len(rows)} rows are more than the classes with three rows or more have; lower it (now "
            f"{fraction}), or name the column of splits with data.split=NAME."
        )
    numbers = {label: number for number, label in enumerate(sorted(counts))}
    labels = torch.tensor([numbers[class_of[row]] for row in common])
    _, taken = stratified_split(labels, size=size, seed=seed, name=name)
    out = {common[int(index)] for index in taken}
    return [row for row in rows if row not in out], sorted(out)
