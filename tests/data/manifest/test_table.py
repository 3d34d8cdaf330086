"""Manifests as files: the same cells from CSV, JSON lines and Parquet, and what is wrong with a file or a row."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_cases import write_json_lines

from perceiver.data.manifest.table import read_table

ROWS = [{"photo": "a.png", "age": 3, "note": 'x, "y"\nz'}, {"photo": None, "age": 4.5, "note": "Käse"}]


def written(tmp_path: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(delimiter: str, end: str, start: str, tmp_path: Path) -> None:
    lines = [["photo", "age", " note"], ["a.png", "3", '"x, ""y"";\nz\u2028"'], ["  ", "4.5", "Käse"]]
    table = read_table(written(tmp_path, start + end.join(delimiter.join(line) for line in lines) + end + end))
    assert list(table.columns) == ["photo", "age", "note"]
    assert len(table) == 2
    assert [table.cell(0, name) for name in table.columns] == ["a.png", "3", 'x, "y";\nz\u2028']
    assert [table.cell(1, name) for name in table.columns] == [None, "4.5", "Käse"]
    assert table.where(1, "age") == f"{table.path}, line 4, column 'age'"
    assert table.problems == {}


def test_json_lines(tmp_path: Path) -> None:
    rows = [*ROWS, {"photo": "", "list": [[1, 2], [3, 4]], "dict": {"a": [1]}, "age": float("nan")}]
    table = read_table(write_json_lines(tmp_path / "m.jsonl", rows))
    assert list(table.columns) == ["photo", "age", "note", "list", "dict"]
    assert [table.cell(0, name) for name in table.columns] == ["a.png", 3, 'x, "y"\nz', None, None]
    assert [table.cell(2, name) for name in table.columns] == [None, None, None, [[1, 2], [3, 4]], {"a": [1]}]
    assert table.where(2) == f"{table.path}, line 3"


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "photo": pa.array(["a.png", None, ""]).dictionary_encode(),
        "age": pa.array([3.0, float("nan"), None]),
        "samples": pa.array([[1.5, 2.5], [], None]),
        "grid": pa.array([[[1, 2], [3, 4]], [[1], [2, 3]], [[5, 6]]]),
        "words": pa.array([["a"], ["b"], None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", row_group_size=2)
    table = read_table(tmp_path / "m.parquet")
    assert [table.cell(row, "photo") for row in range(3)] == ["a.png", None, None]
    assert [table.cell(row, "age") for row in range(3)] == [3.0, None, None]
    assert isinstance(table.cell(0, "samples"), np.ndarray)
    assert table.cell(0, "samples").tolist() == [1.5, 2.5]
    assert table.cell(2, "samples") is None
    assert table.cell(0, "grid").tolist() == [[1, 2], [3, 4]]
    assert table.cell(1, "grid") == [[1], [2, 3]]
    assert table.cell(2, "grid").tolist() == [[5, 6]]
    assert table.cell(0, "words") == ["a"]
    assert table.where(2, "age") == f"{table.path}, row 3, column 'age'"


def test_rows_that_cannot_be_read_are_kept_apart(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, b"a,b\n1,2\n3\n4,\xff5\n6,7,8\n9,10\n"))
    assert table.problems == {
        1: ": expected 2 cells, as in the header, got 1",
        2: ", column 'b': is not UTF-8; save the file as UTF-8",
        3: ": expected 2 cells, as in the header, got 3",
    }
    assert table.where(2) == f"{table.path}, line 4"
    assert table.cell(4, "b") == "10"
    table = read_table(written(tmp_path, b'{"a": 1}\nnot\n[1]\n\n{"a": "\xff"}\n{"a": "\\u00ff"}\n', "m.jsonl"))
    assert sorted(table.problems) == [1, 2, 3]
    assert table.problems[1].startswith(": is not JSON")
    assert table.problems[2] == ": expected a JSON object, got list"
    assert table.problems[3] == ", column 'a': is not UTF-8; save the file as UTF-8"
    assert table.where(3) == f"{table.path}, line 5"
    assert table.cell(4, "a") == "ÿ"


def test_columns_without_a_name_of_their_own_are_left_out(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, ",a,b,a\n0,1,2,3\n"))
    assert list(table.columns) == ["b"]
    assert table.repeated == ["a"]
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "b", "a"]), tmp_path / "m.parquet")
    assert list(read_table(tmp_path / "m.parquet").columns) == ["b"]
    table = read_table(written(tmp_path, '{" a": 1}\n', "m.jsonl"))
    assert table.cell(0, "a") == 1


def test_bytes_that_are_text(tmp_path: Path) -> None:
    columns = {"label": pa.array([b"cat", None]), "photo": pa.array([b"\x89PNG\0", b"x"]), "raw": pa.array([b"a\0", b""])}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet")
    assert [table.cell(0, name) for name in columns] == ["cat", b"\x89PNG\0", b"a\0"]


def test_settings_of_csv_files(tmp_path: Path) -> None:
    path = written(tmp_path, "1;Käse\n".encode("latin-1"))
    table = read_table(path, delimiter=";", encoding="latin-1", header=["number", "word"])
    assert [table.cell(0, name) for name in ("number", "word")] == ["1", "Käse"]


def test_long_cells(tmp_path: Path) -> None:
    text = json.dumps(list(range(60_000)))
    assert read_table(written(tmp_path, f'a,b\n"{text}",1\n')).cell(0, "a") == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.xlsx", b"PK", r"data\.manifest: expected a file whose name ends in one of \.csv, .*m\.xlsx"),
        ("m.csv", b"", r"m\.csv: expected column names, found none\. In a CSV file they are on the first line"),
        ("m.csv", b"a,b\n", r"m\.csv: has no rows"),
        ("m.csv", b'a,b\n1,"2\n', r"m\.csv, line \d: is not CSV.*quotes"),
        ("m.csv", "a,b\n1,2\n".encode("utf-16"), r"m\.csv: is UTF-16; save it as UTF-8"),
        ("m.csv", b"a,b\n1,\0\n", r"m\.csv, line 2: contains a zero byte"),
        ("m.jsonl", b'"a"\n{"a": 2}]\n', r"m\.jsonl, line 1: expected a JSON object, got str.*one object \{…\} per line"),
        ("m.parquet", b"PAR1 no", r"m\.parquet: "),
    ],
)
def test_files_that_are_no_manifest(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, content, name))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.manifest: expected a CSV, .*nowhere\.csv does not exist"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="but .* has none"):
        read_table(tmp_path)
