"""data=hf: no row is in two splits, whatever files are called, whichever rows are named, and whether a test is needed."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hf_cases import library

from perceiver.data import DataModule

library()

from perceiver.data.hf import HuggingFace  # noqa: E402
from perceiver.data.hf.choice import chosen  # noqa: E402
from perceiver.data.hf.folders import local_files  # noqa: E402


def tables(folder: Path, files: Mapping[str, int], *, ids: str = "{file}{number}") -> Path:
    """Write Parquet files with so many rows of a number and a class each."""
    for file, count in files.items():
        path = folder / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [ids.format(file=file, number=number) for number in range(count)]
        columns = {
            "id": names,
            "x": [float(number) for number in range(count)],
            "label": ["ab"[n % 2] for n in range(count)],
        }
        pq.write_table(pa.table(columns), path)
    return folder


def made(folder: Path, **settings: Any) -> DataModule:
    data = DataModule.of(HuggingFace, path=folder, batch_size=2, **settings)
    data.setup("fit")
    return data


def ids(data: DataModule, split: str) -> list[str]:
    return [sample.id for sample in data.split(split)]


def parts(folder: Path) -> dict[str, list[str]]:
    return {name: [file.name for file in files] for name, files in local_files(folder, name=None).splits.items()}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_later_test_has_no_training_rows(streaming: bool, tmp_path: Path) -> None:
    folder = tables(tmp_path, {"train": 40, "validation": 8})
    settings = {"streaming": streaming, "shuffle_buffer": 10}
    trained = made(folder, needs_test=False, **settings)
    training = {name for batch in trained.train_dataloader() for name in batch.ids}
    tested = DataModule.of(HuggingFace, path=folder, batch_size=2, **settings)
    tested.spec = trained.spec
    test = {name for batch in tested.test_dataloader() for name in batch.ids}
    assert test
    assert not test & training
    assert len(training | test) == 40
    whole = made(folder, needs_test=False, test_fraction=0.0, **settings)
    assert len({name for batch in whole.train_dataloader() for name in batch.ids}) == 40


def test_names_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tables(tmp_path / "words", {"squad_train": 20, "squad-Dev.v2": 4, "squad_eval": 4, "v1.test2": 4})
    assert parts(folder) == {
        "train": ["squad_train.parquet"],
        "dev": ["squad-Dev.v2.parquet"],
        "test": ["squad_eval.parquet", "v1.test2.parquet"],
    }
    data = made(folder)
    assert {name[:6] for name in ids(data, "test")} == {"squad_", "v1.tes"}
    assert len(data.split("train")) == 20
    assert parts(tables(tmp_path / "folders", {"train/a": 1, "evaluation/a": 1})) == {
        "train": ["a.parquet"],
        "test": ["a.parquet"],
    }
    assert parts(tables(tmp_path / "inside", {"latest": 1, "trained": 1})) == {
        "train": ["latest.parquet", "trained.parquet"]
    }
    with pytest.raises(ValueError, match=r"train-test\.parquet has several; rename it"):
        parts(tables(tmp_path / "several", {"train-test": 1}))
    assert not [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_files_of_no_split_among_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="perceiver"):
        assert parts(tables(tmp_path / "some", {"more": 1, "test": 1})) == {
            "train": ["more.parquet"],
            "test": ["test.parquet"],
        }
        for name in ("cat/train_1.png", "cat/test_1.png"):
            picture = tmp_path / "pictures" / name
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.touch()
        assert list(parts(tmp_path / "pictures")) == ["train"]
    first, second = caplog.messages
    assert "some: 1 files of no named split are used for training, such as more.parquet" in first
    assert "pictures: 1 files of no named split are used for training, such as cat/test_1.png" in second


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": "a", "val": "a[:20%]"}, r"data\.split\.val: .* data\.split\.train also .* of the split a: 1 to 2\."),
        ({"train": "a[:6]", "val": "b", "test": "a[5:]"}, r"data\.split\.test: .* split a: 6 to 6\."),
        ("a+a[8:]", r"data\.split: expected each row once, .* split a: 9 to 10\."),
        ({"val": "a", "validation": "b"}, r"data\.split\.validation: expected one key .* val, validation repeat val\."),
    ],
)
def test_rows_that_are_named_twice(split: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(split, lengths={"a": 10, "b": 5})


def test_pieces_side_by_side_are_accepted() -> None:
    found = chosen({"train": "a[:50%]+b", "val": "a[50%:]"}, lengths={"a": 10, "b": 5})
    assert found.pieces == {"train": [("a", 0, 5), ("b", 0, 5)], "val": [("a", 5, 10)]}
    with pytest.raises(ValueError, match=r"data\.split\.val: .* of the split a: all"):
        chosen({"train": "a", "val": "a"}, lengths={"a": None, "b": None})


@pytest.mark.parametrize("streaming", [False, True])
def test_ids_that_begin_again_in_each_split(streaming: bool, tmp_path: Path) -> None:
    folder = tables(tmp_path, {"train": 20, "validation": 6, "test": 6}, ids="{number}")
    for on_bad_row in ("error", "skip"):
        data = made(folder, streaming=streaming, on_bad_row=on_bad_row)
        assert len(data.split("val")) == 6, "none is lost"
        assert list(data.spec["modalities"]["table"]["columns"]) == ["x"]
    predicted = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert predicted == [str(number) for number in range(1, 33)]
    with pytest.raises(ValueError, match=r"id '0' also occurs at .*\. data\.id=null numbers the rows instead\."):
        made(folder, streaming=streaming, id="id")


def test_ids_that_repeat_in_a_split(tmp_path: Path) -> None:
    folder = tables(tmp_path, {"train": 20, "validation": 6}, ids="same")
    with pytest.raises(ValueError, match="id 'same' also occurs"):
        made(folder)
