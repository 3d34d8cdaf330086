"""Manifests in several parts, JSON arrays, compressed files, and class names in the metadata of Parquet files."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_cases import write_csv, write_json_lines

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import ManifestTable, read_table
from perceiver.data.readers.bounded.gzip_files import read_gzip


def column(table: ManifestTable, name: str) -> list[Any]:
    return [table.cell(row, name) for row in range(len(table))]


def parts(folder: Path, *, write: Any = write_csv, suffix: str = ".csv", count: int = 12) -> None:
    for number in range(count):
        write(folder / f"part-{number}{suffix}", [{"n": 2 * number, "t": "a"}, {"n": 2 * number + 1, "t": "b"}])


def test_parts_in_natural_order(tmp_path: Path) -> None:
    parts(tmp_path)
    (tmp_path / "README.txt").write_text("not a part")
    (tmp_path / "_SUCCESS").write_text("")
    for given in (tmp_path, tmp_path / "part-*.csv", str(tmp_path / "part-?.csv"), [tmp_path / "part-10.csv", tmp_path]):
        if isinstance(given, list):
            with pytest.raises(ValueError, match=r"data\.manifest: \S+part-10\.csv is named more than once"):
                read_table(given)
            continue
        table = read_table(given)
        expected = range(20 if "?" in str(given) else 24)
        assert column(table, "n") == [str(number) for number in expected]
    assert table.where(5, "n") == f"{tmp_path / 'part-2.csv'}, line 3, column 'n'"
    chosen = read_table([tmp_path / "part-3.csv", tmp_path / "part-1.csv"])
    assert column(chosen, "n") == ["6", "7", "2", "3"], "a list keeps its order"


def test_a_row_of_a_part_that_cannot_be_read(tmp_path: Path) -> None:
    parts(tmp_path, count=2)
    with (tmp_path / "part-1.csv").open("a") as file:
        file.write("1,2,3\n")
    table = read_table(tmp_path)
    assert table.problems == {4: ": expected 2 cells, as in the header, got 3"}
    assert table.where(4) == f"{tmp_path / 'part-1.csv'}, line 4"


def test_parts_of_parquet_with_other_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2], "s": [[1.5], [2.5]]}), tmp_path / "a-0.parquet")
    pq.write_table(pa.table({"s": [[3.5], None], "x": [0.5, None]}), tmp_path / "a-1.parquet")
    table = read_table(tmp_path / "a-*.parquet")
    assert column(table, "x") == [1, 2, 0.5, None]
    assert [None if one is None else one.tolist() for one in column(table, "s")] == [[1.5], [2.5], [3.5], None]
    assert table.where(2) == f"{tmp_path / 'a-1.parquet'}, row 1"
    pq.write_table(pa.table({"s": ["text"], "x": [1.0]}), tmp_path / "a-2.parquet")
    with pytest.raises(ValueError, match=r"expected parts with the same type of column 's', got list<.* in \S+a-2\.parquet"):
        read_table(tmp_path)


def test_parts_with_other_columns(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"x": 1, "y": 2}])
    write_csv(tmp_path / "b.csv", [{"x": 1, "z": 2}])
    with pytest.raises(ValueError, match=r"but \S+b\.csv lacks y and also has z, unlike \S+a\.csv"):
        read_table(tmp_path)
    (tmp_path / "json").mkdir()
    write_json_lines(tmp_path / "json" / "a.jsonl", [{"x": 1}])
    write_json_lines(tmp_path / "json" / "b.jsonl", [{"y": [2]}])
    table = read_table(tmp_path / "json")
    assert (column(table, "x"), column(table, "y")) == ([1, None], [None, [2]])
    with pytest.raises(ValueError, match="expected parts of one format"):
        read_table([tmp_path / "a.csv", tmp_path / "json" / "a.jsonl"])


def test_no_parts(tmp_path: Path) -> None:
    for given, message in (
        (tmp_path, r"expected CSV, Parquet or JSON files, but \S+ has none"),
        (tmp_path / "*.csv", r"no file matches \S+\*\.csv"),
        ([], "got none"),
        ([tmp_path / "nowhere.csv"], r"nowhere\.csv does not exist"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            read_table(given)
    (tmp_path / "x[1].csv").write_text("a\n1\n")
    assert column(read_table(tmp_path / "x[1].csv"), "a") == ["1"], "a name with brackets is no pattern if it exists"


@pytest.mark.parametrize("prefix", ["", "v2_"])
def test_splits_by_the_names_of_parts(prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, rows in (("train-00000-of-00002", 8), ("train-00001-of-00002", 8), ("validation-0", 4), ("test-0", 4)):
        write_csv(tmp_path / f"{prefix}{name}.csv", [{"note": f"{name} {n}", "label": "ab"[n % 2]} for n in range(rows)])
    data = DataModule.of(Manifest, manifest=tmp_path, modalities={"note": "text"}, num_workers=0)
    with caplog.at_level(logging.INFO):
        data.setup()
    assert "splits by the names of the files: test 4 rows, train 16 rows, val 4 rows" in caplog.text
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [16, 4, 4]
    other = DataModule.of(Manifest, manifest=tmp_path, modalities={"note": "text"}, num_workers=0, split=None)
    other.setup()
    assert len(other.split("train")) < 24
    assert "split" not in read_table(tmp_path / f"{prefix}train-*.csv").columns


@pytest.mark.parametrize("name", ["m.json", "m.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays(name: str, indent: int | None, tmp_path: Path) -> None:
    rows: list[Any] = [{"photo": "a.png", "box": [[1, 2]]}, 7, {"photo": None, "age": 3}]
    (tmp_path / name).write_text("\ufeff\n" + json.dumps(rows, indent=indent))
    table = read_table(tmp_path / name)
    assert column(table, "photo") == ["a.png", None, None]
    assert column(table, "age") == [None, None, 3]
    assert table.problems == {1: ": expected a JSON object, got int"}
    assert table.where(2) == f"{tmp_path / name}, row 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2}', r"begins with \[ but is not a JSON array: Expecting ',' delimiter: line 2"),
        ("[1, 2]", "row 1: expected a JSON object, got int. Expected one object"),
        ('{"data": [{"a": 1}]', "line 1: is not JSON"),
        ("[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("[]", r"m\.json: expected column names, found none"),
    ],
)
def test_json_that_is_no_table(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "m.json")


def test_compressed_text(tmp_path: Path) -> None:
    for name, text in (
        ("m.csv.gz", "a,b\n1,x\n"), ("m.TSV.GZ", "a\tb\n1\tx\n"), ("m.jsonl.gz", '{"a": "1", "b": "x"}\n'),
        ("m.json.gz", '[{"a": "1", "b": "x"}]'),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        table = read_table(tmp_path / name)
        assert [table.cell(0, name) for name in "ab"] == ["1", "x"]
        assert str(tmp_path / name) in table.where(0)
    (tmp_path / "m.parquet.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a file whose name ends in one of .*m\.parquet\.gz"):
        read_table(tmp_path / "m.parquet.gz")


def test_gzip_that_is_damaged_or_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "m.csv.gz"
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for content in (whole[:-9], b"a,b\n1,2\n", whole[:12] + b"\xff" * 8 + whole[20:], whole[:-8] + b"\0" * 8):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"m\.csv\.gz: is damaged or truncated"):
            read_table(path)
    path.write_bytes(whole)
    assert len(read_gzip(path, max_bytes=4004)) == 4004
    with pytest.raises(ValueError, match=r"expands from \d+ to more than 4,003 bytes.*data\.max_decompressed_bytes"):
        read_table(path, max_decompressed_bytes=4003)
    path.write_bytes(gzip.compress(bytes(2**26 + 1)))
    with pytest.raises(ValueError, match="to more than 67,108,864 bytes"):
        read_table(path)
    with pytest.raises(ValueError, match=r"data\.max_decompressed_bytes: expected 1 or more, or null, got 0"):
        DataModule.of(Manifest, manifest=path, max_decompressed_bytes=0)


NAMES = ["cat", "dog", "bird"]


def hub_parquet(path: Path, columns: dict[str, Any], features: Any) -> Path:
    """A file as `datasets` writes it, with its description of columns in the metadata."""
    content = features if isinstance(features, bytes) else json.dumps({"info": {"features": features}}).encode()
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": content}), path)
    return path


def label(names: Any = NAMES) -> dict[str, Any]:
    return {"names": names, "_type": "ClassLabel"}


def test_class_names_of_hugging_face_files(tmp_path: Path) -> None:
    features = {
        "label": label(), "tags": {"feature": label(), "_type": "Sequence"}, "more": [label(["x", "y"])],
        "n": {"dtype": "int64", "_type": "Value"},
    }  # fmt: skip
    columns = {"label": [0, 2, -1, None], "tags": [[0, 1], [], None, [-1, 2]], "more": [[1]] * 4, "n": [0, 1, 2, 3]}
    table = read_table(hub_parquet(tmp_path / "m.parquet", columns, features))
    assert column(table, "label") == ["cat", "bird", None, None]
    assert column(table, "tags") == [["cat", "dog"], [], None, ["bird"]]
    assert column(table, "more") == [["y"]] * 4
    assert column(table, "n") == [0, 1, 2, 3]
    table = read_table(hub_parquet(tmp_path / "m.parquet", {"label": [0, 3, 1]}, {"label": label()}))
    assert table.problems == {1: ", column 'label': expected a class from 0 to 2, got 3"}


@pytest.mark.parametrize(
    "features",
    [
        b"{", b"[" * 10**5, b"[]", b"\xff", {"label": label("cat")}, {"label": label([1, 2])}, {"label": label(["a", "a"])},
        {"label": "ClassLabel"}, [], {"label": {"_type": "ClassLabel"}}, {"label": {"_type": "Sequence", "feature": 3}},
    ],
)  # fmt: skip
def test_metadata_that_is_no_description(features: Any, tmp_path: Path) -> None:
    table = read_table(hub_parquet(tmp_path / "m.parquet", {"label": [0, 1]}, features))
    assert column(table, "label") == [0, 1]


def test_a_model_trained_on_class_numbers_keeps_them(tmp_path: Path) -> None:
    """Version 0.1 did not read the names."""
    columns = {"note": [f"t{n}" for n in range(12)], "label": [n % 2 for n in range(12)]}
    path = hub_parquet(tmp_path / "m.parquet", columns, {"label": label(["no", "yes"])})
    settings: dict[str, Any] = {"manifest": path, "modalities": {"note": "text"}, "num_workers": 0, "test_fraction": 1.0}
    data = DataModule.of(Manifest, **{**settings, "test_fraction": 0.2})
    data.setup("fit")
    assert data.spec["target"]["names"] == ["no", "yes"]
    for names in (["0", "1"], ["no", "yes"], ["yes", "no"]):
        later = DataModule.of(Manifest, **settings)
        later.spec = {**data.spec, "target": {**data.spec["target"], "names": names}}
        later.setup("test")
        [batch] = later.test_dataloader()
        assert [int(id_) % 2 == 0 for id_ in batch.ids] == [names[n] in ("1", "yes") for n in batch.target.tolist()]
