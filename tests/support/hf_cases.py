"""Small data sets of the library `datasets`: the animals of `manifest_cases`, as Parquet, `save_to_disk` and folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_cases import RATE, animals

NAMES = ["cat", "dog"]


def library() -> Any:
    """`datasets`; without it, the test is skipped."""
    return pytest.importorskip("datasets")


def features() -> Any:
    """Types of the columns of the animals."""
    datasets = library()
    text, number = datasets.Value("string"), datasets.Value("int64")
    return datasets.Features(
        {
            "id": text,
            "photo": datasets.Image(),
            "sound": datasets.Audio(sampling_rate=RATE),
            "note": text,
            "age": number,
            "pulse": datasets.List(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=NAMES),
        }
    )


def rows_of(folder: Path, count: int = 24) -> list[dict[str, Any]]:
    """The animals with their files as bytes, and a class number."""
    folder.mkdir(parents=True, exist_ok=True)

    def file(name: str | None) -> dict[str, Any] | None:
        return None if name is None else {"bytes": (folder / name).read_bytes(), "path": name}

    return [
        {
            **{name: row[name] for name in ("id", "note", "age")},
            "photo": file(row["photo"]),
            "sound": file(row["sound"]),
            "pulse": [float(NAMES.index(row["label"])) + step for step in range(3 + number % 3)],
            "label": NAMES.index(row["label"]),
        }
        for number, row in enumerate(animals(folder, count))
    ]


def arrow(rows: Sequence[dict[str, Any]], types: Any = None) -> pa.Table:
    """Rows as an Arrow table with the description of `datasets`; written as such, without its encoders of sound."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=(types or features()).arrow_schema)


def parquet_set(folder: Path, splits: dict[str, Sequence[dict[str, Any]]], types: Any = None) -> Path:
    """A file of Parquet for each split, in row groups of four, named as on the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        pq.write_table(arrow(rows, types), folder / f"{split}-00000-of-00001.parquet", row_group_size=4)
    return folder


def small_set(root: Path) -> Path:
    """Training and test rows as Parquet."""
    rows = rows_of(root / "files")
    return parquet_set(root / "set", {"train": rows[:18], "test": rows[18:]})
