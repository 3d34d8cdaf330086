"""The folder of a table in parts: which rows are where, and what it belongs to."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.run.parts.folder import MANIFEST, PartFolder

RUN = {"mode": "embed", "data": {"manifest": "a.csv", "modalities": {"x": "image"}}}


@given(rows=st.integers(0, 500), rows_per_part=st.integers(1, 60))
def test_parts_hold_every_row_once(rows: int, rows_per_part: int) -> None:
    folder = PartFolder(path=Path("nowhere"), rows=rows, rows_per_part=rows_per_part)
    spans = [folder.span(part) for part in range(folder.count)]
    assert [row for span in spans for row in span] == list(range(rows))
    assert all(spans)
    names = [folder.file(part).name for part in range(folder.count)]
    assert names == sorted(set(names))


def prepared(path: Path, *, rows: int = 25, rows_per_part: int | None = 10, **changes: object) -> PartFolder:
    return PartFolder.prepared(path, rows=rows, rows_per_part=rows_per_part, run={**RUN, **changes})


def test_a_run_continues_with_the_same_settings_only(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    (tmp_path / ".part-00000-of-00003.parquet.99.tmp").touch()
    pq.write_table(pa.table({"id": list("abcdefghij")}), folder.file(1))
    again = prepared(tmp_path, rows_per_part=None)
    assert again == folder
    assert again.finished() == [1]
    assert sorted(file.name for file in tmp_path.iterdir()) == [MANIFEST, "part-00001-of-00003.parquet"]
    with pytest.raises(ValueError, match=r"other settings \(rows_per_part: 10 there, 20 here\)"):
        prepared(tmp_path, rows_per_part=20)
    with pytest.raises(ValueError, match=r"other settings \(rows: 25 there, 26 here\)"):
        prepared(tmp_path, rows=26)
    with pytest.raises(ValueError, match=r"other settings \(data.manifest: 'a.csv' there, 'b.csv' here\)"):
        prepared(tmp_path, data={**RUN["data"], "manifest": "b.csv"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="other settings \\(checkpoint: None there, 'f00' here\\)"):
        prepared(tmp_path, checkpoint="f00")
    assert json.loads((tmp_path / MANIFEST).read_text())["data"] == RUN["data"]


def test_the_rows_of_a_part_have_a_default(tmp_path: Path) -> None:
    assert prepared(tmp_path, rows=25_000, rows_per_part=None).count == 3


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert prepared(tmp_path / "new").count == 3
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        (MANIFEST, b"{", "not JSON"),
        (MANIFEST, b"[" * 100_000, "not JSON"),
        (MANIFEST, b'{"rows_per_part": true}', "expected the description of a table in parts"),
        (MANIFEST, b"[1]", "expected the description of a table in parts"),
        ("part-00000-of-00003.parquet", b"PAR1", "has parts but no _parts.json"),
    ],
)
def test_a_damaged_folder(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        prepared(tmp_path)


@pytest.mark.parametrize(("content", "match"), [(None, "expected 10 rows, got 2"), (b"PAR1", "damaged")])
def test_a_damaged_part(content: bytes | None, match: str, tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    if content is None:
        pq.write_table(pa.table({"id": ["a", "b"]}), folder.file(0))
    else:
        folder.file(0).write_bytes(content)
    with pytest.raises(ValueError, match=f"part-00000.*{match}"):
        prepared(tmp_path)


def test_a_table_in_one_file_stays(tmp_path: Path) -> None:
    (tmp_path / "embeddings.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileExistsError, match="a table in one file"):
        prepared(tmp_path / "embeddings.parquet")
