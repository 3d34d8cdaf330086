"""benchmarks/manifest.py: the files that it makes, and its tables, on few rows and a tiny model."""

import csv
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "data.batch_size=8",
)


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, imported as a script is: its folder is on the path. Without real data."""
    monkeypatch.delenv("PERCEIVER_DATA", raising=False)
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.delitem(sys.modules, "manifest", raising=False)
    yield importlib.import_module("manifest")
    sys.modules.pop("manifest", None)


def test_rows(benchmark: Any, tmp_path: Path) -> None:
    path = benchmark.make_manifest(tmp_path, rows=50)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    kinds = ("image", "sound", "ink")
    assert all(any(row[kind] for kind in kinds) for row in rows), "no row without anything"
    assert 10 < sum(not row[kind] for row in rows for kind in kinds) < 50
    assert all((tmp_path / row[kind]).is_file() for row in rows for kind in kinds if row[kind])
    before = path.stat().st_mtime_ns
    assert benchmark.make_manifest(tmp_path, rows=50).stat().st_mtime_ns == before


@pytest.mark.slow
def test_files_against_shards(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(tmp_path), "--rows", "60", "--epochs", "2", "--workers", "1", "--threads", "1", "--repetitions", "1"]
    benchmark.main([*given, "--shards", "--json", str(tmp_path / "out.json"), "--set", *SMALL])
    out = capsys.readouterr().out
    for name in ("data", "training"):
        assert re.search(rf"{name}: shards are \d+\.\d\d times as fast", out), out
    assert (tmp_path / "shards" / "shards.json").is_file()


def test_the_table(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = [
        {"data": 300.0, "training": speed, "training_milliseconds": 3.0, "data_milliseconds": 1.0,
         "main_megabytes": 500.0 + 2 * number, "worker_megabytes": 200.0}
        for number, speed in enumerate([10.0, 100.0, 150.0, 300.0])
    ]  # fmt: skip
    benchmark.show(epochs)
    out = capsys.readouterr().out
    assert "median ratio without the first epoch 2.00\n" in out
    assert "main: +2.00 MB per epoch over epochs 3 to 4" in out
    assert re.search(r"worker: [+-]0\.00 MB per epoch", out)
