"""A seeded split depends on rows and targets alone: unusable rows and a subset of the modalities move no other row."""

import random
from pathlib import Path
from typing import Any

import pytest

from perceiver.data import Manifest

Splits = dict[str, set[str]]


def table(path: Path, *, empty: str = "", count: int = 60) -> Path:
    """Texts a and b, of which b is missing in every tenth row; the row `empty` has neither. Groups of three rows."""
    chance = random.Random(0)
    rows = [
        f"r{number},{'' if f'r{number}' == empty else 'a'},{'' if f'r{number}' == empty or number % 10 == 3 else 'b'},"
        f"{chance.choice('xyz')},g{number // 3}"
        for number in range(count)
    ]
    path.write_text("\n".join(["id,a,b,label,person", *rows]) + "\n")
    return path


def splits(path: Path, *names: str, **settings: Any) -> Splits:
    source = Manifest(manifest=path, modalities=dict.fromkeys(names, "text"), on_bad_row="skip", **settings)
    found = {**dict(zip(("train", "val"), source.read_training(), strict=True)), "test": source.read_test()}
    return {split: {rows.ids(int(row)) for row in rows.rows} for split, rows in found.items()}


@pytest.mark.parametrize(
    "settings", [{}, {"folds": 4, "fold": 1}, {"group": "person"}, {"group": "person", "folds": 4, "fold": 1}]
)
def test_other_rows_keep_their_split(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = splits(table(tmp_path / "m.csv"), "a", "b", **settings)
    assert sum(map(len, whole.values())) == 60
    missing = {f"r{number}" for number in range(3, 60, 10)}
    part = splits(tmp_path / "m.csv", "b", **settings)
    assert part == {split: rows - missing for split, rows in whole.items()}, "with fewer modalities"
    fewer = splits(table(tmp_path / "n.csv", empty="r7"), "a", "b", **settings)
    assert fewer == {split: rows - {"r7"} for split, rows in whole.items()}, "with an empty row"


def test_a_trained_row_is_never_tested_with_a_subset_of_the_modalities(tmp_path: Path) -> None:
    trained = Manifest(manifest=table(tmp_path / "m.csv"), modalities={"a": "text", "b": "text"}, on_bad_row="skip")
    training, _ = trained.read_training()
    assert trained.spec is not None
    tested = Manifest(manifest=tmp_path / "m.csv", modalities={"b": "text"}, on_bad_row="skip")
    tested.take(trained.spec)
    rows = tested.read_test()
    assert not set(training.rows.tolist()) & set(rows.rows.tolist())
