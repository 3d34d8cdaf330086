"""mode=cross_validate: a run per fold, mean and spread, out-of-fold predictions, resuming, the average of models."""

import csv
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra_runs import QUIET, SMALL, metrics_of, run
from manifest_cases import write_json_lines
from sklearn.datasets import load_digits

import perceiver
from perceiver.data import Digits
from perceiver.run.cross_validation.averaging import SCALES, Replayed

SHORT = (*SMALL, *QUIET, "trainer.max_epochs=1", "trainer.limit_train_batches=4", "logger=none", "callbacks.figures=null")
DIGITS = ("mode=cross_validate", "data.folds=3", *SHORT)

# Training with shape checks takes longer than the rest; other tests have them.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cross-validation of the digits in three folds, and its output."""
    directory = tmp_path_factory.mktemp("cross_validation") / "run"
    done = run(*DIGITS, f"hydra.run.dir={directory}")
    assert done.code == 0, done.err
    return directory, done.out


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def probabilities(of: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(value) for name, value in row.items() if name.startswith("probability_")] for row in of])


def test_mean_and_spread_are_those_of_the_folds(whole: tuple[Path, str]) -> None:
    directory, out = whole
    folds = [metrics_of(directory / f"fold_{number}") for number in range(3)]
    found = metrics_of(directory)
    for name in ("test/accuracy", "test/loss", "val/accuracy", "train/loss"):
        values = [fold[name] for fold in folds]
        assert found[name] == pytest.approx(statistics.fmean(values))
        assert found[f"{name}_std"] == pytest.approx(statistics.stdev(values))
    assert found["folds"] == 3
    table = rows(directory / "folds.csv")
    assert [row["fold"] for row in table] == ["0", "1", "2"]
    assert [float(row["test/accuracy"]) for row in table] == [fold["test/accuracy"] for fold in folds]
    lines = [line for line in out.splitlines() if "│" in line]
    assert f"{found['test/accuracy']:.4f}" in next(line for line in lines if "mean" in line)
    assert f"{found['test/accuracy_std']:.4f}" in next(line for line in lines if "std" in line)


def test_each_sample_is_predicted_by_the_model_that_did_not_see_it(whole: tuple[Path, str]) -> None:
    directory, _ = whole
    table = rows(directory / "predictions.csv")
    assert sorted(row["id"] for row in table) == sorted(f"digits/{number}" for number in range(1797))
    truth = load_digits().target
    for number in range(3):
        own = [row for row in table if row["fold"] == str(number)]
        held_out = Digits(folds=3, fold=number).read_test()
        assert {row["id"] for row in own} == set(held_out.names(torch.arange(len(held_out))))
        correct = [int(row["prediction"]) == truth[int(row["id"].removeprefix("digits/"))] for row in own]
        assert statistics.fmean(correct) == pytest.approx(metrics_of(directory / f"fold_{number}")["test/accuracy"])


def test_prediction_averages_probabilities(whole: tuple[Path, str], tmp_path: Path) -> None:
    directory, _ = whole
    tables = {}
    for name, path in (("all", directory), *((str(number), directory / f"fold_{number}") for number in range(3))):
        done = run("mode=predict", f"ckpt_path={path}", f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.err
        tables[name] = rows(tmp_path / name / "predictions.csv")
    assert len(tables["all"]) == 360
    single = [probabilities(tables[str(number)]) for number in range(3)]
    np.testing.assert_allclose(probabilities(tables["all"]), np.mean(single, axis=0), rtol=2e-5, atol=1e-7)
    assert [int(row["prediction"]) for row in tables["all"]] == np.mean(single, axis=0).argmax(axis=1).tolist()


def test_the_average_is_not_tested_on_samples_of_the_folds(whole: tuple[Path, str], tmp_path: Path) -> None:
    done = run("mode=test", f"ckpt_path={whole[0]}", *SHORT, f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert "360 of the 360 test samples, such as 'digits/" in done.error
    assert "most of the averaged models were trained on them" in done.error


@pytest.mark.parametrize("mode", ["predict", "test", "fit"])
def test_results_are_not_overwritten(mode: str, whole: tuple[Path, str]) -> None:
    names = ("cross_validation.json", "metrics.json", "folds.csv", "predictions.csv")
    before = [(whole[0] / name).read_bytes() for name in names]
    done = run(
        f"mode={mode}", f"ckpt_path={whole[0]}/fold_0", *SHORT, f"hydra.run.dir={whole[0]}", "hydra.output_subdir=null"
    )
    assert done.code == 1
    assert "holds a cross-validation, whose results would be overwritten" in done.error
    assert [(whole[0] / name).read_bytes() for name in names] == before


def test_the_average_is_not_tested_on_samples_without_predictions(whole: tuple[Path, str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole[0], directory)
    for file in [directory / "predictions.csv", directory / "fold_1" / "predictions.csv"]:
        file.unlink()
    done = run("mode=test", f"ckpt_path={directory}", *SHORT, f"hydra.run.dir={tmp_path / 'tested'}")
    assert "360 of the 360 test samples, such as 'digits/" in done.error


def test_folds_without_a_test_are_tested_later(whole: tuple[Path, str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole[0], directory)
    before = metrics_of(directory)
    result = directory / "fold_1" / "fold.json"
    content = json.loads(result.read_text())
    content["metrics"] = {name: value for name, value in content["metrics"].items() if not name.startswith("test/")}
    result.write_text(json.dumps(content))
    (directory / "fold_1" / "predictions.csv").unlink()
    done = run(*DIGITS, f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("Fold ")] == [
        f"Fold 1 (3 of 3): {directory / 'fold_1'}"
    ]
    for name in ("train/loss", "val/accuracy", "test/accuracy", "test/loss_std"):
        assert metrics_of(directory)[name] == pytest.approx(before[name])
    assert rows(directory / "predictions.csv") == rows(whole[0] / "predictions.csv")


def test_a_single_fold_must_be_named_for_a_single_model(whole: tuple[Path, str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a cross-validation, .*; give a single fold: .*fold_0"):
        perceiver.load(whole[0])
    assert perceiver.load(whole[0] / "fold_1").spec["num_classes"] == 10


def test_an_interrupted_cross_validation_goes_on(whole: tuple[Path, str], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(whole[0], directory)
    before = metrics_of(directory)
    (directory / "fold_1" / "fold.json").unlink()  # trained, but stopped before its result was written
    shutil.rmtree(directory / "fold_2")
    for name in ("metrics.json", "folds.csv", "predictions.csv"):
        (directory / name).unlink()
    untouched = (directory / "fold_0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns

    refused = run(*DIGITS, f"hydra.run.dir={directory}")
    assert refused.code == 1
    assert "already holds a cross-validation" in refused.error
    other = run(*DIGITS, "data.folds=4", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    assert "has other folds: folds: 3 -> 4" in other.error
    other = run(*DIGITS, "data.split_seed=1", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    assert "has other folds: data.split_seed: 0 -> 1" in other.error
    other = run(*DIGITS, "data.validation_size=100", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    assert "has other folds: data.validation_size: 180 -> 100" in other.error
    incomplete = run("mode=predict", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'predicted'}")
    assert "whose folds 1, 2 are not complete" in incomplete.error

    done = run(*DIGITS, f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    assert done.code == 0, done.err
    assert "Fold 0" not in done.out
    assert (directory / "fold_0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == untouched
    after = metrics_of(directory)
    for name in ("test/accuracy", "test/loss", "test/accuracy_std"):
        assert after[name] == pytest.approx(before[name])
    assert rows(directory / "predictions.csv") == rows(whole[0] / "predictions.csv")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.fold=1"], "data.fold: expected null, because mode=cross_validate runs all folds, got 1"),
        (["data.folds=1"], "data.folds: expected 2 or more, or null, got 1"),
        (["data=av_digits"], "has no settings data.folds and data.fold"),
        (["ckpt_path=nowhere"], "ckpt_path: expected the directory of a cross-validation, or auto, got nowhere"),
    ],
)
def test_what_cannot_be_cross_validated(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = run("mode=cross_validate", *overrides, f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert message in done.error


def patients(folder: Path) -> Path:
    """Tables of 12 patients, four rows each, and test rows of three more."""
    random = np.random.default_rng(0)
    made = []
    for number in range(60):
        sick = number % 2
        made.append(
            {
                "id": f"r{number}",
                "age": round(float(40 + 25 * sick + random.normal()), 3),
                "patient": f"p{number // 4}",
                "label": ("well", "sick")[sick],
                "dose": round(float(3 * sick + 0.1 * random.normal()), 3),
                "split": "train" if number < 48 else "test",
            }
        )
    return write_json_lines(folder / "m.jsonl", made)


MANIFEST = (
    "experiment=manifest", "data.modalities={age: {kind: table, columns: [age]}}", "data.num_workers=0",
    "data.group=patient", "optimizer.lr=1e-2",
)  # fmt: skip


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[Any]:
    """Runs a command line on the manifest."""
    manifest = patients(tmp_path)

    def command(*overrides: str) -> Any:
        done = run(*SHORT, *MANIFEST, f"data.manifest={manifest}", *overrides)
        assert done.code == 0, done.err
        return done

    return command  # type: ignore[return-value]


def test_groups_and_official_test_rows(grouped: Any, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    grouped("mode=cross_validate", "data.folds=3", f"hydra.run.dir={directory}")
    table = rows(directory / "predictions.csv")
    fold_of = {row["id"]: row["fold"] for row in table}
    assert sorted(fold_of) == sorted(f"r{number}" for number in range(48))
    for patient in range(12):
        assert len({fold_of[f"r{4 * patient + number}"] for number in range(4)}) == 1

    done = grouped("mode=test", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'tested'}")
    loadable = done.out.rpartition('perceiver.load("')[2].partition('"')[0]
    assert perceiver.load(loadable).spec["num_classes"] == 2
    grouped("mode=predict", f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'predicted'}")
    seen = ("data.split=null", "data.group=null", "data.test_fraction=1")
    other = f"data.manifest={tmp_path}/../{tmp_path.name}/m.jsonl"
    done = run(*SHORT, *MANIFEST, *seen, "mode=test", f"ckpt_path={directory}", other, f"hydra.run.dir={tmp_path / 'again'}")
    assert "48 of the 60 test samples" in done.error
    shutil.copy(tmp_path / "m.jsonl", tmp_path / "copy.jsonl")
    other = f"data.manifest={tmp_path}/copy.jsonl"
    done = run(
        *SHORT, *MANIFEST, *seen, "mode=test", f"ckpt_path={directory}", other, f"hydra.run.dir={tmp_path / 'copied'}"
    )
    assert done.code == 0, done.err
    assert "48 of the 60 test samples, such as 'r0', have ids of samples of the folds" in done.err


def test_values_are_averaged_in_their_units(grouped: Any, tmp_path: Path) -> None:
    settings = ("task=regression", "data.target=dose", "data.target_kind=values")
    directory = tmp_path / "run"
    grouped("mode=cross_validate", "data.folds=2", *settings, f"hydra.run.dir={directory}")
    predicted = {}
    for name, path in (("all", directory), ("0", directory / "fold_0"), ("1", directory / "fold_1")):
        grouped("mode=predict", *settings, f"ckpt_path={path}", f"hydra.run.dir={tmp_path / name}")
        predicted[name] = np.array([float(row["prediction_dose"]) for row in rows(tmp_path / name / "predictions.csv")])
    np.testing.assert_allclose(predicted["all"], (predicted["0"] + predicted["1"]) / 2, rtol=1e-4, atol=1e-5)
    grouped("mode=test", *settings, f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'tested'}")
    truth = [json.loads(line)["dose"] for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    error = np.abs(predicted["all"][48:] - truth[48:]).mean()
    assert metrics_of(tmp_path / "tested")["test/mae"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("kind", sorted(SCALES))
def test_scales_are_inverted(kind: str) -> None:
    target = {"kind": kind, "names": ["a", "b", "c"], "mean": [1.0, 2.0, -3.0], "std": [2.0, 0.5, 1.0]}
    outputs = torch.randn(5, 3, dtype=torch.float64)
    scale = SCALES[kind]
    again = scale.outputs(scale.of(outputs, target), target)
    expected = outputs.log_softmax(dim=1) if kind == "classes" else outputs
    torch.testing.assert_close(again, expected)


def test_outputs_are_replayed_in_order() -> None:
    replayed, seen = Replayed(torch.arange(5.0)[:, None]), []
    for size in (2, 2, 1):
        with replayed.batch(size):
            seen.append(replayed({}, None))
    assert torch.equal(torch.cat(seen), torch.arange(5.0)[:, None])
