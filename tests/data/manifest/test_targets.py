"""Targets of a manifest: classes, labels and values, in the data module and through training and prediction."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from manifest_cases import animals, write_csv, write_json_lines
from manifest_runs import SMALL, train

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError
from perceiver.targets.kinds import target_of
from perceiver.targets.labels import labels_target
from perceiver.targets.text import TextTarget
from perceiver.targets.values import values_target

Rows = list[dict[str, Any]]
SETTINGS: dict[str, Any] = {"modalities": {"cloud": "points"}, "batch_size": 100, "num_workers": 0}


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """With labels that are the parity and size of the row's number, and two values."""
    made = animals(tmp_path, count=40)
    for number, row in enumerate(made):
        row["tags"] = ";".join(["even"] * (number % 2 == 0) + ["big"] * (number >= 20))
        row["height"], row["weight"] = 1000 + number, f"{number / 4}"
    return made


def fitted(tmp_path: Path, rows: Rows, **arguments: Any) -> DataModule:
    data = DataModule.of(Manifest, manifest=write_csv(tmp_path / "m.csv", rows), **{**SETTINGS, **arguments})
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def test_labels(tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows, target="tags", target_kind="labels")
    batches = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sum(batch.size for batch in batches) == 40
    for batch in batches:
        assert batch.target.dtype == torch.bool
        for id_, target in zip(batch.ids, batch.target.tolist(), strict=True):
            number = int(id_.removeprefix("a"))
            assert target == [number >= 20, number % 2 == 0], "names are sorted: big, even"
    expected = labels_target(names=["big", "even"], training=batches[0].target)
    assert data.spec["target"] == expected
    assert data.spec["num_classes"] == 2


@pytest.mark.parametrize("write", [write_csv, write_json_lines])
def test_labels_as_lists(write: Any, tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        labels = [["x", 1], ["1"], [], None][number % 4]
        row["tags"] = labels if write is write_json_lines or labels is None else str(labels).replace("'", '"')
    path = write(tmp_path / ("m.csv" if write is write_csv else "m.jsonl"), rows)
    data = DataModule.of(Manifest, manifest=path, target="tags", target_kind="labels", **SETTINGS)
    data.setup("fit")
    assert data.spec["target"]["names"] == ["1", "x"]
    (batch,) = data.train_dataloader()
    for id_, target in zip(batch.ids, batch.target.tolist(), strict=True):
        assert target == [[True, True], [True, False], [False, False], [False, False]][int(id_[1:]) % 4]


def test_values(tmp_path: Path, rows: Rows) -> None:
    data = fitted(tmp_path, rows, target=["height", "weight"], target_kind="values")
    (batch,) = data.train_dataloader()
    numbers = torch.tensor([float(id_[1:]) for id_ in batch.ids], dtype=torch.float64)
    assert torch.equal(batch.target, torch.stack([1000 + numbers, numbers / 4], dim=1)), "in their own units"
    expected = values_target(names=["height", "weight"], training=batch.target)
    for key, value in expected.items():
        assert data.spec["target"][key] == (value if key in ("kind", "names") else pytest.approx(value)), "in another order"
    assert data.spec["num_outputs"] == 2
    later = DataModule.of(Manifest, manifest=tmp_path / "m.csv", **SETTINGS)
    later.spec = data.spec
    later.setup("test")
    (batch,), (same,) = data.test_dataloader(), later.test_dataloader()
    assert torch.equal(batch.target, same.target)


@pytest.mark.parametrize(
    ("arguments", "cells", "message"),
    [
        ({"target": "tags", "target_kind": "labels"}, {"tags": '["a"'}, "column 'tags': expected labels separated by ';'"),
        ({"target": "tags", "target_kind": "labels"}, {"tags": '[["a"]]'}, "column 'tags': expected a flat list of labels"),
        ({"target": "height", "target_kind": "values"}, {"height": "tall"}, "column 'height': expected a number .* 'tall'"),
        ({"target": "height", "target_kind": "values"}, {"height": "inf"}, "column 'height': expected a number .* 'inf'"),
        ({"target": "height", "target_kind": "values"}, {"height": "n/a"}, "column 'height': has no target"),
    ],
)
def test_bad_targets(arguments: dict[str, Any], cells: dict[str, Any], message: str, tmp_path: Path, rows: Rows) -> None:
    rows[3] |= cells
    with pytest.raises(BadRowError, match=r"m\.csv, line 5, " + message):
        fitted(tmp_path, rows, **arguments)
    data = fitted(tmp_path, rows, on_bad_row="skip", **arguments)
    assert len(data.source.skipped) == 1


def test_a_label_that_training_has_not(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["split"] = "val" if number % 4 == 3 else "train"
    rows[3]["tags"] = "even;odd"
    message = r"line 5, column 'tags': label 'odd' is not one of the 2 labels in training: big, even"
    with pytest.raises(BadRowError, match=message):
        fitted(tmp_path, rows, target="tags", target_kind="labels", needs_test=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_kind": "class"}, r"data\.target_kind: expected one of classes, labels, values, text, got 'class'"),
        (
            {"target": ["label", "tags"]},
            r"line 2, column 'label': expected 0 or 1, since data\.target names .*'cat'",
        ),
        ({"target": ["label", "label"]}, r"data\.target: expected one column or more, each once"),
        ({"target": []}, r"data\.target: expected one column or more"),
        ({"target_kind": "labels", "balanced_sampling": True}, r"data\.balanced_sampling: expected false"),
        ({"target": "nothing", "target_kind": "labels"}, r"column 'nothing': expected labels .* got none in the"),
        ({"target": ["height", "hight"], "target_kind": "values"}, r"data\.target: \S+ has no column 'hight'"),
        ({"target": "cloud"}, r"data\.modalities\.cloud: column 'cloud' is the target"),
    ],
)
def test_errors_name_the_setting(arguments: dict[str, Any], message: str, tmp_path: Path, rows: Rows) -> None:
    for row in rows:
        row["nothing"] = ""
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, rows, **arguments)


def test_a_spec_of_another_kind_is_refused(tmp_path: Path, rows: Rows) -> None:
    stored = fitted(tmp_path, rows, target="tags", target_kind="labels").spec
    data = DataModule.of(Manifest, manifest=tmp_path / "m.csv", target="height", target_kind="values", **SETTINGS)
    with pytest.raises(ValueError, match=r"spec\.target\.kind: Manifest has values, but the stored spec has 'labels'"):
        data.spec = stored


def one_hot(rows: Rows, *, several: bool = False) -> Rows:
    for number, row in enumerate(rows):
        row |= {"cat": int(number % 3 == 0), "dog": str(number % 3 == 1), "bird": float(number % 3 == 2)}
        if several and number == 7:
            row["cat"] = 1
    return rows


ONE_HOT = ["cat", "dog", "bird"]


def test_one_hot_classes(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        data = fitted(tmp_path, one_hot(rows), target=ONE_HOT)
    assert "columns cat, dog, bird: each row has exactly one 1, so they are classes" in caplog.text
    target = data.spec["target"]
    assert (target["kind"], target["names"], target["columns"]) == ("classes", ONE_HOT, ONE_HOT)
    batches = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    for batch in batches:
        assert batch.target.tolist() == [int(id_[1:]) % 3 for id_ in batch.ids]
    assert target["counts"] == batches[0].target.bincount().tolist()
    later = DataModule.of(Manifest, manifest=tmp_path / "m.csv", **SETTINGS)
    later.spec = data.spec
    later.setup("test")
    assert torch.equal(next(iter(later.test_dataloader())).target, batches[2].target)


def test_one_hot_labels(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        data = fitted(tmp_path, one_hot(rows, several=True), target=ONE_HOT)
    assert "some rows have no 1 or several, so they are labels (task=multilabel)" in caplog.text
    assert (data.spec["target"]["kind"], data.spec["target"]["names"]) == ("labels", ONE_HOT)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            for id_, target in zip(batch.ids, batch.target.tolist(), strict=True):
                n = int(id_[1:])
                assert target == [n % 3 == 0 or n == 7, n % 3 == 1, n % 3 == 2]
    with pytest.raises(BadRowError, match=r"line 9: expected 1 in exactly one of the columns cat, dog, bird, got cat, dog"):
        fitted(tmp_path, rows, target=ONE_HOT, target_kind="classes")
    assert fitted(tmp_path, one_hot(rows), target=ONE_HOT, target_kind="labels").spec["target"]["kind"] == "labels"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "column 'dog': has no target"),
        ("2", "column 'dog': expected 0 or 1, since"),
        ("0.3", "column 'dog': expected 0 or 1"),
    ],
)
def test_one_hot_cells_that_are_neither(cell: str, message: str, tmp_path: Path, rows: Rows) -> None:
    one_hot(rows)[3]["dog"] = cell
    with pytest.raises(BadRowError, match=r"m\.csv, line 5, " + message):
        fitted(tmp_path, rows, target=ONE_HOT)


def test_a_one_hot_class_that_training_has_not(tmp_path: Path, rows: Rows) -> None:
    for row in one_hot(rows):
        row["split"] = "val" if row["bird"] else "train"
    with pytest.raises(BadRowError, match=r"line 4, column 'bird': no training row has this target; known are cat, dog"):
        fitted(tmp_path, rows, target=ONE_HOT, needs_test=False)


def test_values_with_decimal_commas(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    plain = fitted(tmp_path, rows, target=["height", "weight"], target_kind="values").spec["target"]
    for row in rows:
        row["height"] = f"{row['height'] / 1000:.3f}".replace(".", ",") + "0 m"
        row["weight"] = row["weight"].replace(".", ",")
    with caplog.at_level("INFO"):
        data = fitted(tmp_path, rows, target=["height", "weight"], target_kind="values")
    assert "column 'height': target read as numbers (decimal: ,, unit: m)" in caplog.text
    target = data.spec["target"]
    assert target["mean"] == pytest.approx([plain["mean"][0] / 1000, plain["mean"][1]])
    assert set(target["written"]) == {"height", "weight"}
    path = write_csv(tmp_path / "n.csv", [{**rows[1], "height": "1,234"}])
    later = DataModule.of(Manifest, manifest=path, test_fraction=1.0, **SETTINGS)
    later.spec = data.spec
    later.setup("test")
    [batch] = later.test_dataloader()
    assert batch.target.tolist() == [[1.234, 0.25]], "as training was written, though 1,234 alone is ambiguous"


def test_numbers_that_may_be_meant_in_two_ways(tmp_path: Path, rows: Rows) -> None:
    for row in rows:
        row["height"] = "1,234"
    settings: dict[str, Any] = {"target": "height", "target_kind": "values"}
    with pytest.raises(ValueError, match=r"column 'height': '1,234' may be written .* data\.decimal and data\.thousands"):
        fitted(tmp_path, rows, **settings)
    assert fitted(tmp_path, rows, decimal=",", **settings).spec["target"]["mean"] == [pytest.approx(1.234)]
    assert fitted(tmp_path, rows, thousands=",", **settings).spec["target"]["mean"] == [1234]


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ("task=multilabel data.target=tags data.target_kind=labels", "prediction probability_big probability_even"),
        ("task=regression data.target=[height,weight] data.target_kind=values", "prediction_height prediction_weight"),
    ],
)
def test_training_and_prediction(settings: str, columns: str, tmp_path: Path, rows: Rows) -> None:
    path = write_csv(tmp_path / "m.csv", rows)
    run = tmp_path / "run"
    given = [f"data.manifest={path}", "data.modalities={cloud: points, patient: {kind: table, numbers: [age]}}"]
    code, _, err = train(*SMALL, *settings.split(), *given, "trainer.max_epochs=2", f"hydra.run.dir={run}")
    assert code == 0, err
    code, _, err = train(
        "mode=predict", f"ckpt_path={run}", f"data.manifest={path}", "data.num_workers=0", f"hydra.run.dir={tmp_path}"
    )
    assert code == 0, err
    with (tmp_path / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", *columns.split()]
    assert [row["id"] for row in table] == [row["id"] for row in rows]
    if "prediction_height" in columns:
        assert all(900 < float(row["prediction_height"]) < 1140 for row in table), "in their own units"


CAPTIONS: dict[str, Any] = {"target": "caption", "target_kind": "text", "target_max_length": 12}


def captioned(rows: Rows) -> Rows:
    for number, row in enumerate(rows):
        row["caption"] = f"a {row['label']} {'!' * (number % 4)}".strip()
    return rows


@pytest.mark.parametrize("tokenizer", ["bytes", "pairs"])
def test_texts(tmp_path: Path, rows: Rows, tokenizer: str) -> None:
    settings = {"target_tokenizer": tokenizer, "target_vocabulary_size": 262, **CAPTIONS}
    data = fitted(tmp_path, captioned(rows), **settings)
    target = target_of(data.spec)
    assert isinstance(target, TextTarget)
    by_id = {row["id"]: row["caption"] for row in rows}
    count = 0
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        count += batch.size
        for id_, ids, valid in zip(batch.ids, batch.target, batch.target_mask, strict=True):
            assert target.tokenizer.decode(ids[valid].tolist()) == by_id[id_]
            assert (int(ids[valid][0]), int(ids[valid][-1])) == (1, 2)
    assert count == 40
    stored = DataModule.of(Manifest, manifest=tmp_path / "m.csv", **SETTINGS)
    stored.spec = data.spec  # names the column of targets
    stored.setup("test")
    assert next(iter(stored.test_dataloader())).target is not None
    part = DataModule.of(Manifest, manifest=tmp_path / "m.csv", batch_tokens=40, **{**SETTINGS, **settings})
    part.setup("fit")
    assert all(batch.target.numel() <= 40 for batch in part.train_dataloader())
    chosen = data.split("train").take(torch.tensor([3, 0]))
    assert [chosen[0].id, chosen[1].id] == [data.split("train")[3].id, data.split("train")[0].id]
    assert torch.equal(chosen[0].target, data.split("train")[3].target)
    assert chosen.lengths == [len(chosen[0].target), len(chosen[1].target)]


def test_texts_that_cannot_be_targets(tmp_path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    captioned(rows)
    rows[3]["caption"] = "a dog that is too long"
    with pytest.raises(BadRowError, match=r"line 5, column 'caption': its target text has 22 ids.*target_truncate=true"):
        fitted(tmp_path, rows, **CAPTIONS)
    data = fitted(tmp_path, rows, target_truncate=True, split=None, validation_fraction=0.2, test_fraction=0.2, **CAPTIONS)
    assert "1 of " in caplog.text
    assert "texts are cut to data.target_max_length = 12 ids" in caplog.text
    assert sum(len(data.split(name)) for name in ("train", "val", "test")) == 40
    skipping = fitted(tmp_path, rows, on_bad_row="skip", **CAPTIONS)
    assert sum(len(skipping.split(name)) for name in ("train", "val", "test")) == 39
    rows[3]["caption"] = None
    with pytest.raises(BadRowError, match=r"line 5, column 'caption': has no target\."):
        fitted(tmp_path, rows, **CAPTIONS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": ["caption", "label"]}, r"data\.target: expected one column for target_kind=text"),
        ({"target_tokenizer": "words"}, r"data\.target_tokenizer: expected pairs or bytes, got 'words'"),
        ({"target_max_length": 2}, r"data\.target_max_length: expected 3 or more, got 2"),
    ],
)
def test_settings_of_texts(tmp_path: Path, rows: Rows, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, captioned(rows), **{**CAPTIONS, **settings})
