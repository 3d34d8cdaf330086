"""data=hf: rows equal those of a manifest, columns are used by their types, splits, and what is said without network."""

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hf_cases import arrow, features, library, parquet_set, rows_of, small_set
from manifest_cases import write_csv

from perceiver.data import DataModule, Manifest

datasets: Any = library()

from perceiver.data.hf import HuggingFace  # noqa: E402

SMALL: dict[str, Any] = {"image_size": [8, 8], "batch_size": 8}


def opened(path: Path | str, **settings: Any) -> DataModule:
    data = DataModule.of(HuggingFace, path=path, **{**SMALL, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def sizes(data: DataModule) -> list[int]:
    return [len(data.split(name)) for name in ("train", "val", "test")]


def test_rows_equal_those_of_a_manifest(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    modalities = {"photo": "image", "sound": "audio", "note": "text", "patient": {"kind": "table", "columns": ["age"]}}
    table = [
        {
            **{name: row[name] for name in ("id", "note", "age")},
            **{name: row[name] and row[name]["path"] for name in ("photo", "sound")},
            "label": ("cat", "dog")[row["label"]],
        }
        for row in rows
    ]
    listed = DataModule.of(Manifest, manifest=write_csv(tmp_path / "m.csv", table), modalities=modalities, **SMALL)
    listed.setup("fit")
    ours = DataModule.of(HuggingFace, path=parquet_set(tmp_path / "set", {"train": rows}), **SMALL)
    ours.spec = listed.spec
    theirs, own = listed.split("predict"), ours.split("predict")
    assert len(theirs) == len(own) == len(rows)
    for a, b in zip(theirs, own, strict=True):
        assert a.id == b.id
        assert a.inputs.keys() == b.inputs.keys()
        for name, x in a.inputs.items():
            torch.testing.assert_close(b.inputs[name], x, rtol=0, atol=0)
    # The same stratified split, by the same seed, and the same classes.
    assert torch.equal(ours.split("train").rows, listed.split("train").rows)
    assert torch.equal(ours.split("val").targets, listed.split("val").targets)


def test_columns_are_used_by_their_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="perceiver"):
        spec = opened(small_set(tmp_path)).spec
    kinds = {name: entry["kind"] for name, entry in spec["modalities"].items()}
    assert kinds == {"photo": "image", "sound": "audio", "note": "text", "pulse": "timeseries", "table": "table"}
    assert spec["modalities"]["table"]["columns"] == ["age"]
    assert spec["modalities"]["sound"]["sample_rate"] == 8000, "that of the column"
    assert spec["target"]["names"] == ["cat", "dog"]
    assert spec["target"]["columns"] == ["label"]
    shown = [line.strip() for line in caplog.messages if line.startswith("  column")]
    assert shown == [
        "column 'id' (string): ids",
        "column 'photo' (image): image",
        "column 'sound' (audio): audio",
        "column 'note' (string): text",
        "column 'age' (int64): a number of modality 'table'",
        "column 'pulse' (list of float32): timeseries",
        "column 'label' (2 classes): target (classes)",
    ]


def test_settings_override_types(tmp_path: Path) -> None:
    path = small_set(tmp_path)
    data = opened(path, modalities={"picture": {"kind": "image", "column": "photo", "size": [4, 6]}}, on_bad_row="skip")
    assert data.spec["modalities"]["picture"]["shape"] == [3, 4, 6]
    data = opened(
        path,
        modalities={"sound": {"kind": "audio"}},
        sample_rate=4000,
        target="age",
        target_kind="values",
        on_bad_row="skip",
    )
    assert data.spec["target"]["kind"] == "values"
    assert data.spec["modalities"]["sound"]["sample_rate"] == 4000


@pytest.mark.parametrize("form", ["saved", "saved splits", "file", "arrow", "configuration", "images"])
def test_local_formats(form: str, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files")
    given: dict[str, Any] = {}
    path = tmp_path / "set"
    if form == "saved":
        datasets.Dataset(arrow(rows)).save_to_disk(path)
    elif form == "saved splits":
        parts = {"train": datasets.Dataset(arrow(rows[:18])), "validation": datasets.Dataset(arrow(rows[18:]))}
        datasets.DatasetDict(parts).save_to_disk(path)
    elif form == "file":
        path = parquet_set(path, {"train": rows}) / "train-00000-of-00001.parquet"
    elif form == "arrow":
        datasets.Dataset(arrow(rows)).save_to_disk(path)
        (path / "state.json").unlink()
    elif form == "configuration":
        parquet_set(path / "first", {"train": rows})
        parquet_set(path / "second", {"train": rows[:20]})
        with pytest.raises(ValueError, match=r"has several configurations, first, second; name one: data\.name=NAME"):
            opened(path)
        given = {"name": "second"}
    else:
        for row in rows:
            if row["photo"] is not None:
                folder = path / ("test" if int(row["id"][1:]) > 17 else "train") / ("cat", "dog")[row["label"]]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / row["photo"]["path"]).write_bytes(row["photo"]["bytes"])
        given = {"cache": tmp_path / "cache"}
    data = opened(path, test_fraction=0.25, validation_fraction=0.25, **given)
    expected = {"saved splits": [14, 6, 4], "images": [10, 4, 4], "configuration": [11, 4, 5]}
    assert sizes(data) == expected.get(form, [14, 4, 6]), "absent splits are cut from train"
    assert data.spec["target"]["names"] == ["cat", "dog"]
    assert torch.isfinite(next(iter(data.train_dataloader())).inputs["image" if form == "images" else "photo"]).all()


def test_splits_that_the_user_names(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "files")
    path = parquet_set(tmp_path / "set", {"train": rows[:14], "extra": rows[14:20], "validation_matched": rows[20:]})
    assert sizes(opened(path)) == [10, 2, 2]
    assert sizes(opened(path, split={"train": "train+extra[:50%]", "val": "extra[50%:]", "test": "validation_matched"})) == [
        17,
        3,
        4,
    ]
    tested = DataModule.of(HuggingFace, path=path, split={"test": "extra"}, **SMALL)
    tested.spec = opened(path).spec
    assert [sample.id for sample in tested.split("test")] == [f"a{number}" for number in range(14, 20)]
    with pytest.raises(ValueError, match=r"data\.split: expected a split such as extra, train, validation_matched, or"):
        opened(path, split="other")
    with pytest.raises(ValueError, match=r"data\.split: expected the keys train, val and test, got 'dev2'"):
        opened(path, split={"dev2": "train"})


def test_kinds_of_targets(tmp_path: Path) -> None:
    text = datasets.Value("string")
    cases: dict[str, tuple[Any, list[Any], str]] = {
        "labels": (datasets.List(datasets.ClassLabel(names=["a", "b"])), [[0], [0, 1], []], "labels"),
        "score": (datasets.Value("float32"), [0.5, 1.5, -1.0], "values"),
        "words": (datasets.Translation(languages=["de", "en"]), [{"de": "eins", "en": "one"}] * 3, "text"),
    }
    for name, (feature, values, kind) in cases.items():
        types = datasets.Features({"note": text, name: feature})
        rows = [{"note": f"note {number}", name: values[number % 3]} for number in range(12)]
        given = {"target": name} if kind == "values" else {}
        data = opened(parquet_set(tmp_path / name, {"train": rows}, types), **given)
        assert data.spec["target"]["kind"] == kind
        if kind == "text":
            assert {key: entry["column"] for key, entry in data.spec["modalities"].items()} == {
                "note": "note",
                "de": "words.de",
            }
            assert data.split("train").targets.text(0) == "one"
        if kind == "labels":
            assert data.split("train").targets.shape == (len(data.split("train")), 2)


def test_a_target_that_is_not_obvious(tmp_path: Path) -> None:
    classes = datasets.ClassLabel(names=["a", "b"])
    types = datasets.Features({"note": datasets.Value("string"), "coarse": classes, "fine": classes})
    rows = [{"note": "x", "coarse": number % 2, "fine": number // 2 % 2} for number in range(12)]
    path = parquet_set(tmp_path / "set", {"train": rows}, types)
    with pytest.raises(ValueError, match=r"the columns coarse, fine are of classes; name one: data\.target=NAME"):
        opened(path)
    data = opened(path, target="fine")
    assert list(data.spec["modalities"]) == ["note"], "the other classes may give it away"
    again = DataModule.of(HuggingFace, path=path, **SMALL)
    again.spec = data.spec
    assert torch.equal(again.split("test").targets, data.split("test").targets), "the spec names the column"
    with pytest.raises(ValueError, match=r"data\.target: the data set has no column 'middle', only note, coarse, fine"):
        opened(path, target="middle")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub (LocalEntryNotFoundError)"),
            "download it elsewhere with 'hf download ylecun/mnist --repo-type dataset --local-dir DIR', copy DIR here",
        ),
        (FileNotFoundError("Dataset 'ylecun/mnist' is a gated dataset on the Hub."), "is gated: accept its terms at https"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found mnist.py"),
            "is a loading script on the Hub, which",
        ),
    ],
)
def test_the_hub_cannot_help(error: Exception, words: str) -> None:
    with mock.patch.object(datasets, "load_dataset_builder", side_effect=error), pytest.raises(Exception, match=words):
        DataModule.of(HuggingFace, path="ylecun/mnist", **SMALL).prepare_data()


def test_a_reader_that_could_run_code_is_refused() -> None:
    reader = mock.Mock()
    type(reader).__module__ = "datasets.packaged_modules.pandas.pandas"
    with (
        mock.patch.object(datasets, "load_dataset_builder", return_value=reader),
        pytest.raises(ValueError, match="someone/pickles has the format 'pandas', whose reader is not trusted here"),
    ):
        DataModule.of(HuggingFace, path="someone/pickles", **SMALL).prepare_data()
    reader.download_and_prepare.assert_not_called()


@pytest.mark.parametrize("name", ["https://example.org/x", "parquet", "../nowhere/at/all", "s3://bucket/x"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.path: expected a folder"):
        DataModule.of(HuggingFace, path=name, **SMALL).prepare_data()


def test_facts_of_a_network(tmp_path: Path) -> None:
    data = DataModule.of(HuggingFace, path=small_set(tmp_path), **SMALL)
    data.prescribe({"photo": {"kind": "image", "shape": [3, 12, 12], "mean": [0.5] * 3, "std": [0.25] * 3}})
    data.setup("fit")
    photo = data.spec["modalities"]["photo"]
    assert (photo["shape"], photo["mean"]) == ([3, 12, 12], [0.5] * 3)
    with pytest.raises(ValueError, match=r"model\.adapters\.picture: the data has no modality 'picture'"):
        DataModule.of(HuggingFace, path=tmp_path / "set", **SMALL).prescribe({"picture": {"kind": "image"}})


def test_folds_groups_and_augmentation_are_those_of_manifests(tmp_path: Path) -> None:
    rows = [{**row, "owner": number // 3} for number, row in enumerate(rows_of(tmp_path))]
    types = datasets.Features({**features(), "owner": datasets.Value("int64")})
    folder = parquet_set(tmp_path / "set", {"train": rows}, types)
    tested: list[int] = []
    for fold in range(4):
        data = opened(folder, folds=4, fold=fold, group="owner")
        assert "table" in data.spec["modalities"]
        assert "owner" not in data.spec["modalities"]["table"]["columns"]
        owners = [{int(sample.id[1:]) // 3 for sample in data.split(name)} for name in ("train", "val", "test")]
        assert sum(map(len, owners)) == len(set.union(*owners))
        tested += owners[2]
    assert sorted(tested) == list(range(8))
    with pytest.raises(ValueError, match=r"data.folds: expected null with data.streaming"):
        opened(folder, folds=4, fold=0, streaming=True)

    def grey(x: torch.Tensor) -> torch.Tensor:
        return x * 0 + 0.5

    modalities = {"photo": "image", "pulse": "timeseries"}
    data = opened(folder, modalities=modalities, augment={"photo": grey})
    batch, other = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert batch.inputs["photo"][batch.masks["photo"]][:, 0].unique().numel() == 1
    assert other.inputs["photo"].unique().numel() > 1
