"""The data module: every kind in a batch, missing cells, splits, statistics, the stored spec, and what may be wrong."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import plug_in_kinds
import pytest
import soundfile
import torch
from manifest_cases import MODALITIES, RATE, animals, write_csv, write_json_lines
from PIL import Image
from torch import Tensor

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError
from perceiver.data.shards.records import Decode, encode
from perceiver.modalities.preprocess import preprocess
from perceiver.testing import Check, data_module_checks

SMALL: dict[str, Any] = {"image_size": (8, 8), "sample_rate": RATE, "batch_size": 100, "num_workers": 0}
Rows = list[dict[str, Any]]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return animals(tmp_path)


def module(tmp_path: Path, rows: Rows, *, modalities: Any = MODALITIES, **arguments: Any) -> DataModule:
    path = write_csv(tmp_path / "m.csv", rows)
    return DataModule.of(Manifest, manifest=path, modalities=modalities, **{**SMALL, **arguments})


def fitted(tmp_path: Path, rows: Rows, **arguments: Any) -> DataModule:
    made = module(tmp_path, rows, **arguments)
    made.prepare_data()
    made.setup("fit")
    return made


def test_every_kind_in_one_batch(tmp_path: Path, rows: Rows) -> None:
    """Against what single samples give, one at a time; absent ones are masked."""
    data = fitted(tmp_path, rows, validation_fraction=0.2, test_fraction=0.25)
    spec = data.spec
    (training,), (validation,), (test,) = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert (training.size, validation.size, test.size) == (14, 4, 6)
    assert spec["target"] == {"kind": "classes", "names": ["cat", "dog"], "counts": [7, 7]}
    assert len({*training.ids, *validation.ids, *test.ids}) == 24
    assert sorted(training.inputs) == sorted(MODALITIES)
    by_id = {row["id"]: row for row in rows}
    for number, id_ in enumerate(training.ids):
        row = by_id[id_]
        assert training.target[number] == ["cat", "dog"].index(row["label"])
        present = training.masks["photo"][number]
        assert bool(present) == (row["photo"] is not None)
        if row["photo"]:
            image = preprocess(Image.open(tmp_path / row["photo"]), spec=spec["modalities"]["photo"], name="x")
            assert torch.equal(training.inputs["photo"][number], image)
        valid = training.masks["sound"][number]
        assert bool(valid.any()) == (row["sound"] is not None)
        if row["sound"]:
            wave, rate = soundfile.read(tmp_path / row["sound"], dtype="float32")
            sound = preprocess((wave, rate), spec=spec["modalities"]["sound"], name="x")
            assert torch.equal(training.inputs["sound"][number][:, valid], sound)
        table = training.inputs["patient"]
        assert table["present"][number].tolist() == [row["age"] is not None, True]
        assert table["categories"][number].tolist() == [["f", "m"].index(row["sex"]) + 1]
    series, mask = training.inputs["vitals"], training.masks["vitals"]
    assert series["times"].dtype == torch.float64
    assert not series["present"][mask].all()
    for value in range(2):
        there = series["values"][..., value][series["present"][..., value] & mask]
        assert there.mean().item() == pytest.approx(0, abs=1e-4)
        assert there.std(correction=0).item() == pytest.approx(1 if value == 0 else 0, abs=1e-4)
    assert training.inputs["note"].dtype == torch.int64
    assert training.inputs["cloud"].shape == (14, 7, 3)


@pytest.mark.parametrize("check", data_module_checks(lambda: None), ids=str)
def test_the_kit(check: Check, tmp_path: Path, rows: Rows) -> None:
    """Every kind of modality, some missing, through loader processes too."""
    made = data_module_checks(lambda: module(tmp_path, rows, batch_size=4), test_readers=("_read_test",))
    next(one for one in made if one.name == check.name)()


def test_statistics_are_those_of_the_training_split(tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows)
    specs = data.spec["modalities"]
    (batch,) = data.train_dataloader()
    there = batch.inputs["photo"][batch.masks["photo"]]
    np.testing.assert_allclose(there.mean(dim=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(there.std(dim=(0, 2, 3), correction=0), 1, atol=1e-4)
    sound = batch.inputs["sound"][batch.masks["sound"][:, None]]
    assert sound.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    chosen = set(batch.ids)
    ages = [row["age"] for row in rows if row["id"] in chosen and row["age"] is not None]
    assert specs["patient"]["numbers"] == ["age"]
    assert specs["patient"]["mean"] == [pytest.approx(np.mean(ages))]
    assert specs["patient"]["std"] == [pytest.approx(np.std(ages))]
    assert specs["patient"]["categories"] == {"sex": ["f", "m"]}
    assert specs["patient"]["category_sizes"] == [3]
    assert specs["vitals"]["names"] == ["pulse", "pressure"]
    assert specs["vitals"]["duration_seconds"] == 2.5
    assert specs["cloud"]["shape"] == [None, 3]
    assert specs["sound"]["sample_rate"] == RATE


def test_numbers_missing_in_words_and_columns_of_categories(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["age"] = "NA" if number % 3 == 0 else number
        row["code"] = f"{number % 3}"
    table = {"kind": "table", "columns": ["age", "sex", "code"], "categories": ["code"]}
    data = fitted(tmp_path, rows, modalities={"patient": table})
    spec = data.spec["modalities"]["patient"]
    assert spec["numbers"] == ["age"]
    assert spec["categories"] == {"sex": ["f", "m"], "code": ["0", "1", "2"]}
    (batch,) = data.val_dataloader()
    for number, id_ in enumerate(batch.ids):
        assert bool(batch.inputs["patient"]["present"][number, 0]) == (int(id_[1:]) % 3 != 0)


def test_a_split_column(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["split"] = ("train", "Train", "val", "TEST")[number // 2 % 4]
    data = fitted(tmp_path, rows, modalities={"photo": "image", "sound": "audio"})
    (validation,), (test,) = data.val_dataloader(), data.test_dataloader()
    assert validation.ids == [row["id"] for row in rows if row["split"] == "val"]
    assert test.ids == [row["id"] for row in rows if row["split"] == "TEST"]
    # Without it: by class and seed.
    by_class = fitted(tmp_path, rows, modalities={"cloud": "points"}, split=None)
    again = fitted(tmp_path, rows, modalities={"cloud": "points"}, split=None)
    other = fitted(tmp_path, rows, modalities={"cloud": "points"}, split=None, split_seed=1)
    ids = [next(iter(one.test_dataloader())).ids for one in (by_class, again, other)]
    assert ids[0] == ids[1] != ids[2]
    (test,) = by_class.test_dataloader()
    assert test.target.bincount().tolist() == [2, 2]
    # Validation is split off where the column has none.
    for row in rows:
        row["split"] = "test" if row["split"] == "TEST" else "train"
    data = fitted(tmp_path, rows, modalities={"cloud": "points"}, validation_fraction=0.3)
    assert len(next(iter(data.val_dataloader())).ids) == round(0.3 * 18)


def test_rare_classes_stay_in_training(tmp_path: Path, rows: Rows) -> None:
    rows[3]["label"] = "axolotl"
    rows[4]["label"] = rows[5]["label"] = "bat"
    data = fitted(tmp_path, rows, modalities={"cloud": "points"})
    assert data.spec["target"]["names"] == ["axolotl", "bat", "cat", "dog"]
    assert data.spec["target"]["counts"][:2] == [1, 2]


def test_classes_that_are_numbers_are_sorted_as_such(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["label"] = (10, 9, 2)[number % 3]
    assert fitted(tmp_path, rows, modalities={"cloud": "points"}).spec["target"]["names"] == ["2", "9", "10"]


def test_json_lines_with_values_inline(tmp_path: Path) -> None:
    rows = [
        {"image": [[number * 10, 255], [0, number]], "wave": [0.1 * number, 0.2, 0.3], "series": [[1.0, number], [2, 3]],
         "points": [[1, 2, 3], [4, 5, number]], "label": number % 2 == 0, "temp": [1.0, float(number)]}
        for number in range(20)
    ]  # fmt: skip
    modalities = {
        "image": {"kind": "image", "channels": 1},
        "wave": "audio",
        "series": {"kind": "timeseries", "step_seconds": 0.5},
        "points": "points",
        "temp": {"kind": "thermometer", "shape": [None], "channel_axis": "none"},
    }
    data = DataModule.of(Manifest, manifest=write_json_lines(tmp_path / "m.jsonl", rows), modalities=modalities, **SMALL)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert batch.inputs["image"].shape == (3, 1, 8, 8)
    assert batch.inputs["series"]["times"].tolist() == [[0, 0.5]] * 3
    assert batch.inputs["temp"].tolist() == [[1.0, float(id_) - 1] for id_ in batch.ids]
    assert batch.masks == {}
    assert data.spec["target"]["names"] == ["False", "True"]


def test_prediction_takes_all_rows_and_needs_no_target(tmp_path: Path, rows: Rows) -> None:
    stored = fitted(tmp_path, rows).spec
    for row in rows:
        del row["label"]
    rows[0]["sex"] = "x"
    data = module(tmp_path, rows, modalities=None, image_size=(99, 99))
    data.prepare_data()
    data.spec = stored
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == [row["id"] for row in rows]
    assert batch.target is None
    assert batch.inputs["photo"].shape == (24, 3, 8, 8), "the spec says the size"
    assert batch.inputs["patient"]["categories"][0].tolist() == [0], "an unknown category"
    assert data.spec == stored
    only = module(
        tmp_path,
        [{"file": row["photo"]} for row in rows if row["photo"]],
        modalities={"photo": {"kind": "image", "column": "file"}},
    )
    only.spec = stored
    (batch,) = only.predict_dataloader()
    assert list(batch.inputs) == ["photo"]
    assert batch.ids == [str(number + 1) for number in range(18)]
    lacking = module(tmp_path, [{"photo": row["photo"]} for row in rows], modalities=None)
    lacking.spec = stored
    with pytest.raises(
        ValueError, match=r"data\.modalities\.sound: .*m\.csv has no column 'sound', only photo\. To leave it out"
    ):
        lacking.setup("predict")


def test_testing_takes_the_same_rows_as_training_did(tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows, modalities={"cloud": "points"})
    (expected,) = data.test_dataloader()
    later = module(tmp_path, rows, modalities=None)
    later.spec = data.spec
    later.setup("test")
    (batch,) = later.test_dataloader()
    assert batch.ids == expected.ids
    assert torch.equal(batch.inputs["cloud"], expected.inputs["cloud"])
    whole = module(tmp_path, rows, modalities=None, test_fraction=1.0)
    whole.spec = data.spec
    (batch,) = whole.test_dataloader()
    assert batch.size == 24


def test_workers_give_the_same(tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows)
    parallel = fitted(tmp_path, rows, num_workers=1)
    (one,), (other,) = data.val_dataloader(), parallel.val_dataloader()
    assert one.ids == other.ids
    assert torch.equal(one.inputs["photo"], other.inputs["photo"])
    assert parallel.val_dataloader().persistent_workers


def changed(rows: Rows, number: int, **cells: Any) -> Rows:
    return [{**row, **cells} if index == number else row for index, row in enumerate(rows)]


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"photo": "none.png"}, r"m\.csv, line 5, column 'photo': no such file: .*none\.png"),
    ({"photo": "bad.png"}, r"m\.csv, line 5, column 'photo': .*bad\.png: not a readable image"),
    ({"sound": "bad.wav"}, r"m\.csv, line 5, column 'sound': .*bad\.wav: not a readable sound file"),
    ({"vitals": "bad.csv"}, r"m\.csv, line 5, column 'vitals': .*bad\.csv: expected a time column"),
    ({"label": None}, r"m\.csv, line 5, column 'label': has no target"),
    ({"id": "a0"}, r"m\.csv, line 5, column 'id': id 'a0' also occurs at .*m\.csv, line 2"),
    (
        dict.fromkeys(["photo", "sound", "vitals", "cloud", "note", "age", "sex"]),
        r"m\.csv, line 5: all columns of its modalities are empty",
    ),
]


@pytest.mark.parametrize(("cells", "message"), BAD_ROWS)
def test_bad_rows_are_errors_or_skipped_and_named(
    cells: dict[str, Any], message: str, tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad.png", "bad.wav", "bad.csv"):
        (tmp_path / name).write_text("time\n")
    bad = changed(rows, 3, **cells)
    with pytest.raises(BadRowError, match=message + r".* data\.on_bad_row=skip"):
        fitted(tmp_path, bad)
    if cells.get("vitals"):
        with pytest.raises(BadRowError, match=message):
            fitted(tmp_path, bad, check_files=False)
    with caplog.at_level(logging.WARNING):
        data = fitted(tmp_path, bad, on_bad_row="skip")
    (warning,) = data.source.skipped
    assert "line 5" in warning
    assert "skipped 1 of 24 rows" in caplog.text
    assert warning in caplog.text
    ids = [
        id_
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        for b in loader
        for id_ in b.ids
    ]
    assert sorted(ids) == sorted(row["id"] for row in bad if row is not bad[3])


def test_files_that_look_good_from_outside(tmp_path: Path, rows: Rows) -> None:
    """What only decoding finds, in a loader process: the message is one line. Skipped rows are found before training."""
    path = tmp_path / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "2.csv").write_text("time,pulse,pressure\n0,1,2\n1,x,3\n")
    data = fitted(tmp_path, rows, modalities={"photo": "image"}, on_bad_row="skip", num_workers=1)
    data.setup("test")
    assert len(data.source.skipped) == 7, "six rows have nothing but their photo"
    assert any("line 3, column 'photo'" in message and "not a valid image" in message for message in data.source.skipped)
    for row in rows:
        row["split"] = "val" if row["id"] in ("a1", "a2") else "train"
    data = fitted(tmp_path, rows, modalities={"photo": "image", "cloud": "points"}, num_workers=1, needs_test=False)
    with pytest.raises(BadRowError, match=r"^\S+m\.csv, line 3, column 'photo': \S+1\.png: not a valid image") as caught:
        list(data.val_dataloader())
    assert "Traceback" not in str(caught.value)
    data = fitted(tmp_path, rows, modalities={"vitals": "timeseries"}, needs_test=False)
    with pytest.raises(BadRowError, match=r"line 4, column 'vitals': \S+2\.csv, column 'pulse', row 3: expected a number"):
        list(data.val_dataloader())


def test_a_table_cell_that_is_no_number(tmp_path: Path, rows: Rows) -> None:
    for row in rows:
        row["split"] = "train"
    rows[3]["split"], rows[3]["age"] = "val", "old"
    data = fitted(tmp_path, rows, modalities={"patient": MODALITIES["patient"], "cloud": "points"}, needs_test=False)
    with pytest.raises(BadRowError, match=r"m\.csv, line 5: table, column 'age': expected a number, got 'old'"):
        list(data.val_dataloader())


def test_a_slip_among_numbers_makes_no_categories(tmp_path: Path, rows: Rows) -> None:
    for row in rows:
        row["split"] = "train" if row["id"] != "a4" else "val"
    bad = changed(rows, 3, age="old")
    modalities = {"patient": MODALITIES["patient"], "cloud": "points"}
    message = r"m\.csv, line 5, column 'age': expected a number, as in other rows, got 'old'\. .* under categories"
    with pytest.raises(BadRowError, match=message):
        fitted(tmp_path, bad, modalities=modalities, needs_test=False)
    data = fitted(tmp_path, bad, modalities=modalities, needs_test=False, on_bad_row="skip")
    assert len(data.source.skipped) == 1
    assert data.spec["modalities"]["patient"]["numbers"] == ["age"]
    assert sum(data.spec["target"]["counts"]) == 22
    modalities = {"patient": {"kind": "table", "categories": ["age"]}, "cloud": "points"}
    spec = fitted(tmp_path, bad, modalities=modalities, needs_test=False).spec["modalities"]["patient"]
    assert spec["numbers"] == []
    assert "old" in spec["categories"]["age"]


def test_broken_utf8_and_short_rows(tmp_path: Path, rows: Rows) -> None:
    data = module(tmp_path, rows, modalities={"note": "text"})
    path = tmp_path / "m.csv"
    lines = path.read_bytes().split(b"\r\n")
    lines[4] = lines[4].replace(b"Ein", b"\xff\xfe")
    path.write_bytes(b"\r\n".join(lines))
    with pytest.raises(BadRowError, match=r"m\.csv, line 5, column 'note': is not UTF-8; save the file as UTF-8"):
        data.setup("fit")
    lines[4] = b"a3,only"
    path.write_bytes(b"\r\n".join(lines))
    data = DataModule.of(Manifest, manifest=path, modalities={"note": "text"}, **SMALL)
    with pytest.raises(BadRowError, match=r"m\.csv, line 5: expected 9 cells, as in the header, got 2"):
        data.setup("fit")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_training_has_not(split: str, tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["split"] = ("train", "train", "val", "test")[number // 2 % 4]
    position = next(number for number, row in enumerate(rows) if row["split"] == split)
    bad = changed(rows, position, label="bird")
    message = rf"m\.csv, line {position + 2}, column 'label': class 'bird' is not one of the 2 classes in training: cat, dog"
    with pytest.raises(BadRowError, match=message):
        fitted(tmp_path, bad, modalities={"cloud": "points"})
    assert len(fitted(tmp_path, bad, modalities={"cloud": "points"}, on_bad_row="skip").source.skipped) == 1
    stored = fitted(tmp_path, rows, modalities={"cloud": "points"}).spec
    later = module(tmp_path, changed(rows, 0, label="bird", split="test"), modalities=None)
    later.spec = stored
    with pytest.raises(BadRowError, match="class 'bird'"):
        later.setup("test")
    predicting = module(tmp_path, changed(rows, 0, label="bird"), modalities=None)
    predicting.spec = stored
    assert next(iter(predicting.predict_dataloader())).size == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "lable"}, r"data\.target: \S+m\.csv has no column 'lable', only id, photo, sound"),
        ({"modalities": {"foto": "image"}}, r"data\.modalities\.foto: \S+m\.csv has no column 'foto'"),
        ({"modalities": {"label": "text"}}, r"data\.modalities\.label: column 'label' is the target"),
        ({"modalities": None}, r"data\.modalities: expected modalities, as columns with their kinds"),
        ({"id": "name"}, r"data\.id: \S+m\.csv has no column 'name'"),
        ({"split": "name"}, r"data\.split: \S+m\.csv has no column 'name'"),
        ({"split": "sex"}, r"m\.csv, line 2, column 'sex': expected train, val or test, got 'f'"),
        ({"on_bad_row": "ignore"}, r"data\.on_bad_row: expected error or skip, got 'ignore'"),
        ({"batch_size": 0}, r"data\.batch_size: expected 1 or more"),
        ({"num_workers": -1}, r"data\.num_workers: expected 0"),
        ({"validation_fraction": 0.0}, r"data\.validation_fraction: expected a share"),
        ({"test_fraction": 1.5}, r"data\.test_fraction: expected a share"),
        ({"test_fraction": 0.0}, r"data\.split: \S+m\.csv has no test rows; .*test=false"),
        ({"test_fraction": 1.0}, r"m\.csv: expected rows for training and for validation, got 0 and 0"),
        ({"sample_rate": 0}, r"data\.modalities\.sound: sample_rate: expected"),
        ({"image_size": (0, 8)}, r"data\.modalities\.photo: .*size"),
    ],
)
def test_errors_name_the_setting(arguments: dict[str, Any], message: str, tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, rows, **arguments)


def test_a_single_class(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"m\.csv, column 'label': expected two or more classes, got only 'cat' in the 17"):
        fitted(tmp_path, [{**row, "label": "cat"} for row in rows], modalities={"cloud": "points"})


def test_modalities_without_anything(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"column photo is empty in all 17 training rows; leave photo out"):
        fitted(tmp_path, [{**row, "photo": None} for row in rows], modalities={"photo": "image", "cloud": "points"})
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    with pytest.raises(ValueError, match=r"m\.csv, column 'sound': all training recordings are silent"):
        fitted(tmp_path, [{**row, "sound": "silent.wav"} for row in rows], modalities={"sound": "audio"})


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.manifest: .*nowhere\.csv does not exist"):
        DataModule.of(Manifest, manifest=tmp_path / "nowhere.csv", modalities={"photo": "image"}).prepare_data()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {"photo": {"kind": "image"}}}, r"spec\.modalities: Manifest has 'cloud' of kind points, .*'photo'"),
        ({"modalities": {}}, r"spec\.modalities: expected one or more modalities"),
        ({"modalities": {"cloud": {"shape": [None, 3]}}}, r"spec\.modalities\.cloud\.kind: expected a string"),
        ({"target": {"kind": "boxes"}}, r"spec\.target\.kind: Manifest has classes, labels, values, .*'boxes'"),
    ],
)
def test_spec_of_other_data_is_refused(change: dict[str, Any], message: str, tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows, modalities={"cloud": "points"})
    with pytest.raises(ValueError, match=message):
        data.spec = {**data.spec, **change}


def test_spec_before_setup(tmp_path: Path, rows: Rows) -> None:
    data = module(tmp_path, rows)
    with pytest.raises(RuntimeError, match=r'call prepare_data\(\) and setup\("fit"\) first'):
        _ = data.spec
    with pytest.raises(RuntimeError, match="prediction needs a spec"):
        data.setup("predict")


def test_balanced_sampling(tmp_path: Path, rows: Rows) -> None:
    for row in rows[4:]:
        row["label"] = "cat"
    data = fitted(tmp_path, rows, modalities={"cloud": "points"}, balanced_sampling=True)
    targets: list[Tensor] = [batch.target for _ in range(10) for batch in data.train_dataloader()]
    assert torch.cat(targets).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_paths_relative_to_another_folder(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "tables").mkdir()
    path = write_csv(tmp_path / "tables" / "m.csv", rows)
    data = DataModule.of(Manifest, manifest=path, root=tmp_path, modalities={"cloud": "points"}, **SMALL)
    data.setup("fit")
    with pytest.raises(BadRowError, match="no such file"):
        DataModule.of(Manifest, manifest=path, modalities={"cloud": "points"}, **SMALL).setup("fit")


def test_kinds_of_other_packages_from_values_files_and_columns(tmp_path: Path) -> None:
    """Also read again with the stored spec, and from the records of shards, in which files are content."""
    rows = []
    for n in range(12):
        (tmp_path / f"{n}.bin").write_bytes(bytes(range(n, 2 * n + 3)))
        row = {"dna": "ACGT"[n % 4 :] + "A", "geiger": f"{n}.bin", "speed": n, "direction": 90, "label": "ab"[n % 2]}
        rows.append(row)
    rows[0]["direction"] = rows[1]["dna"] = None
    counts = {"kind": "plug_in_kinds.Counts", "gain": 2.0}
    kinds = {"dna": "plug_in_kinds.Bases", "geiger": counts, "wind": plug_in_kinds.Wind}
    shares = {"validation_fraction": 0.3, "test_fraction": 0, "needs_test": False}
    data = fitted(tmp_path, rows, modalities=kinds, on_bad_row="skip", **shares)
    assert len(data.source.skipped) == 1
    assert "contains NaN" in data.source.skipped[0], "no direction"
    (batch,) = data.train_dataloader()
    number = batch.ids.index("4")
    spec = data.spec["modalities"]
    [mean], [std] = spec["geiger"]["mean"], spec["geiger"]["std"]
    x, mask = batch.inputs["geiger"][number], batch.masks["geiger"][number]  # type: ignore[index]
    np.testing.assert_allclose(x[0, mask] * std + mean, 2.0 * np.arange(3, 9), rtol=1e-5)
    np.testing.assert_allclose(batch.inputs["wind"][number], [0, 3], atol=1e-6)  # type: ignore[index]
    assert batch.inputs["dna"][number, 0].tolist() == [0, 0, 0, 1]  # type: ignore[index]
    again = DataModule.of(Manifest, manifest=tmp_path / "m.csv", on_bad_row="skip", needs_test=False, num_workers=0)
    again.spec = data.spec
    again.setup("fit")
    samples = again.split("train")
    decode = Decode(modalities=list(kinds), specs=spec, target=data.spec["target"])
    for index in range(len(samples)):
        own, sample = decode(encode(samples, index, target=data.spec["target"])), samples[index]
        assert own.inputs.keys() == sample.inputs.keys()
        assert all(torch.equal(own.inputs[name], sample.inputs[name]) for name in sample.inputs)  # type: ignore[arg-type]


def test_rows_of_a_split_that_is_not_used_need_no_target(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["split"] = "test" if number < 4 else "train"
        row["label"] = None if number < 4 else row["label"]
    assert len(fitted(tmp_path, rows, modalities={"note": "text"}, needs_test=False).split("train")) > 0
    with pytest.raises(BadRowError, match="line 2, column 'label': has no target"):
        fitted(tmp_path, rows, modalities={"note": "text"})


def test_labels_by_other_separators(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    for number, row in enumerate(rows):
        row["label"] = ("red|round", "red", "round", "blue|round")[number % 4]
    settings: dict[str, Any] = {"modalities": {"note": "text"}, "target_kind": "labels"}
    data = fitted(tmp_path, rows, **settings)
    assert "look like 3 labels separated by '|'; if they are, set data.label_separator" in caplog.text
    data = fitted(tmp_path, rows, label_separator="|", **settings)
    assert data.spec["target"]["names"] == ["blue", "red", "round"]
    stored = module(tmp_path, rows, **settings)
    stored.spec = data.spec
    stored.setup("test")
    assert next(iter(stored.test_dataloader())).target.shape[1] == 3


def test_columns_say_how_they_were_read(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    for number, row in enumerate(rows):
        row |= {"born": f"2020-01-{number + 1:02d}", "price": f"$1,0{number:02d}.50", "code": f"c{number}"}
    columns = ["born", "price", "code"]
    with caplog.at_level(logging.INFO):
        data = fitted(tmp_path, rows, modalities={"x": {"kind": "table", "columns": columns}}, validation_fraction=0.2)
    spec = data.spec["modalities"]["x"]
    assert spec["numbers"] == ["born", "price"]
    assert spec["dates"] == {"born": {"written": "iso", "unit": "days"}}
    assert 18262 <= spec["mean"][0] < 18286
    assert 1000 < spec["mean"][1] < 1024
    assert "column 'born': read as dates (written: iso, unit: days)" in caplog.text
    assert "column 'code': read as a category" in caplog.text
    assert "almost one per row" in caplog.text


def test_paths_as_texts_are_noticed(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tmp_path, rows, modalities={"vitals": "text"})
    assert "column 'vitals': the cells look like file paths" in caplog.text
    caplog.clear()
    fitted(tmp_path, rows, modalities={"note": "text"})
    assert "look like file paths" not in caplog.text


def test_series_without_times_take_a_step_for_each_row(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    for row in rows:
        row["series"] = "[[1, 2], [3, 4], [5, 7]]"
    with caplog.at_level(logging.INFO):
        data = fitted(tmp_path, rows, modalities={"series": "timeseries"})
    assert data.spec["modalities"]["series"]["step_seconds"] == 1.0
    assert "series have no times, so their steps are taken to be 1 second apart" in caplog.text
    assert next(iter(data.val_dataloader())).inputs["series"]["times"][0].tolist() == [0, 1, 2]


def test_images_of_12_bits(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        pixels = np.random.default_rng(number).integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        row["photo"] = f"{number}.png"
    data = fitted(tmp_path, rows, modalities={"photo": "image"})
    spec = data.spec["modalities"]["photo"]
    assert spec["deep_range"] == [0, 4095]
    assert 0.4 < spec["mean"][0] < 0.6
    with Image.open(tmp_path / "0.png") as image:
        predicted = preprocess(image, spec=spec, name="x")
    data.setup("predict")
    assert torch.equal(next(iter(data.predict_dataloader())).inputs["photo"][0], predicted)


def test_coordinates_of_maps_keep_their_digits(tmp_path: Path, rows: Rows) -> None:
    near = np.random.default_rng(0).normal(size=(20, 3))
    for row in rows:
        (tmp_path / row["cloud"]).with_suffix(".xyz").write_text(
            "\n".join(" ".join(f"{one:.6f}" for one in point) for point in near + np.array([5648349.895, 32456789.1, 100]))
        )
        row["cloud"] = row["cloud"].replace(".npy", ".xyz")
    data = fitted(tmp_path, rows, modalities={"cloud": "points"})
    read = next(iter(data.val_dataloader())).inputs["cloud"][0]
    expected = near - near.mean(0)
    expected /= np.linalg.norm(expected, axis=1).max()
    torch.testing.assert_close(read, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


def test_content_in_place_of_a_path_is_not_printed(tmp_path: Path, rows: Rows) -> None:
    rows[3]["photo"] = "iVBORw0KGgo" * 10_000
    with pytest.raises(BadRowError, match="expected a file path, got 110,000 characters") as caught:
        fitted(tmp_path, rows, modalities={"photo": "image"})
    assert len(str(caught.value)) < 1000
