"""benchmarks/emoji.py: its rows, and that both of its manifests are read alike."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver.data.manifest import read_table

EMOJI = ["👩‍🎨", "👩‍🚀", "👩‍🔬", "😀", "😁", "🚀", "🇫🇷", "🇩🇪", "⛄", "🧁", "🪐", "✂️", "🍐", "🐺", "🔨", "💻"]


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, imported as a script is: its folder is on the path."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.delitem(sys.modules, "emoji", raising=False)
    yield importlib.import_module("emoji")
    sys.modules.pop("emoji", None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    lines = ["emoji\ten\tde", *(f"{emoji}\tname {number}\tName {number}" for number, emoji in enumerate(EMOJI))]
    (folder / "names.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (len(EMOJI), 64, 64, 3), dtype=np.uint8)
    np.savez(folder / "noto64.npz", images=images)
    return folder


def test_rows(benchmark: Any, source: Path) -> None:
    rows = benchmark.rows_of(source / "names.tsv", language="de", missing=0.5, seed=1)
    assert rows == benchmark.rows_of(source / "names.tsv", language="de", missing=0.5, seed=1)
    assert len({row["id"] for row in rows}) == len(EMOJI)
    assert all(row["photo"] or row["name"] for row in rows), "no row without anything"
    assert {row["name"] for row in rows} - {""} <= {f"Name {number}" for number in range(len(EMOJI))}
    assert any(not row["photo"] for row in rows)
    assert any(not row["name"] for row in rows)
    assert len({row["split"] for row in rows[:3]}) == 1, "emoji of the same first character are in the same split"
    assert [rows[number]["label"] for number in (0, 3, 5, 6, 8, 9, 10, 11)] == [
        "pictographs", "faces", "transport and maps", "enclosed characters and flags", "symbols", "supplemental pictographs",
        "pictographs, extended", "other",
    ]  # fmt: skip


def test_both_manifests_are_alike(benchmark: Any, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--source", str(source)]
    benchmark.main([str(tmp_path / "files"), *given])
    benchmark.main([str(tmp_path / "bytes"), *given, "--parquet"])
    assert capsys.readouterr().out.count("'data.modalities={photo: image, name: text}'") == 2
    files, table = (read_table(tmp_path / name) for name in ("files/emoji.csv", "bytes/emoji.parquet"))
    for row in range(len(EMOJI)):
        assert [files.cell(row, name) for name in ("id", "name", "label", "split")] == [
            table.cell(row, name) for name in ("id", "name", "label", "split")
        ]
        path, photo = files.cell(row, "photo"), table.cell(row, "photo")
        assert (path is None) == (photo is None)
        if path is not None:
            assert (tmp_path / "files" / path).read_bytes() == photo["bytes"]
