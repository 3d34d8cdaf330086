"""Shards of the animals of `manifest_cases`, a few samples each."""

from pathlib import Path
from typing import Any
from unittest import mock

from manifest_cases import MODALITIES, RATE, animals, write_csv

from perceiver.data import DataModule, Manifest
from perceiver.data.shards import writing

SETTINGS: dict[str, Any] = {"image_size": (8, 8), "sample_rate": RATE, "batch_size": 4, "num_workers": 0}


def manifest(folder: Path, count: int = 40, *, modalities: Any = MODALITIES, **arguments: Any) -> DataModule:
    """Return a fitted data module of the animals, whose files are made at the first call."""
    path = folder / "m.csv"
    if not path.is_file():
        write_csv(path, animals(folder, count))
    data = DataModule.of(Manifest, manifest=path, modalities=modalities, **{**SETTINGS, **arguments})
    data.setup("fit")
    return data


def splits(data: DataModule) -> dict[str, Any]:
    """Its rows, by split."""
    names = ("train", "val", "test") if data.source.has_test else ("train", "val")  # type: ignore[attr-defined]
    return {name: data.split(name) for name in names}


def pack(data: DataModule, folder: Path, *, rows: int = 8, num_workers: int = 0) -> Path:
    """Its shards, of `rows` samples each."""
    with mock.patch.object(writing, "LEAST_ROWS", rows), mock.patch.object(writing, "SHARDS_PER_SPLIT", 10**6):
        written = writing.write_shards(
            splits(data), spec=data.spec, folder=folder, source={"manifest": "m.csv"}, num_workers=num_workers
        )
    return written.path
