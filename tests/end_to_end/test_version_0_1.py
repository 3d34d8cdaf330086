"""Run directories, checkpoints and saved models of version 0.1 load, predict, are tested, continued and fine-tuned as then.

`fixtures/version_0_1` has them, with what they gave; its README.md says how they were made.
"""

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra_runs import run as train
from torch import Tensor

import perceiver
from perceiver.checkpoints.file import read
from perceiver.interop.hub import from_pretrained

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"
RUNS = sorted(FIXTURES.glob("runs/*/"))
MODELS = sorted(FIXTURES.glob("models/*/"))
MOST_VALUES = 400
"""So many of an output are kept, evenly spaced."""
SECONDS = "seconds"
"""The one metric that is another every time."""


def commands(fixture: Path) -> dict[str, list[str]]:
    """By what they do, with {run} and {data}."""
    message: dict[str, list[str]] = json.loads((fixture / "commands.json").read_text())
    return message


def that(what: str) -> pytest.MarkDecorator:
    """The runs that have such a command."""
    return pytest.mark.parametrize("fixture", [one for one in RUNS if what in commands(one)], ids=lambda one: one.name)


def unpacked(fixture: Path, folder: Path) -> Path:
    """A copy of a run directory and its data, to write into."""
    target = folder / "copy"
    shutil.copytree(fixture, target)
    for file in target.rglob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    return target


def do(what: str, fixture: Path, folder: Path) -> tuple[Path, str]:
    """Carry out a command on a copy; the run directory that it leaves, and what it printed."""
    copy, target = unpacked(fixture, folder), folder / what
    words = [word.replace("{run}", f"{copy}/run").replace("{data}", f"{copy}/data") for word in commands(fixture)[what]]
    if what in ("resume", "finetune"):
        words.append("callbacks.report=null")  # as then; a test draws one
    code, out, err = train(*words, f"hydra.run.dir={target}")
    assert code == 0, err
    return target, out


def metrics_of(directory: Path) -> dict[str, float]:
    loaded: dict[str, float] = json.loads((directory / "metrics.json").read_text())
    return loaded


def assert_outputs(model: perceiver.Perceiver, expected: Path) -> None:
    """The same inputs give the same outputs, and weights have the same names and shapes in the same order."""
    stored = np.load(expected / "outputs.npz")
    inputs: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for name in stored.files:
        what, modality, *rest = name.split("/")
        if what == "mask":
            masks[modality] = torch.from_numpy(stored[name])
        elif what == "input" and rest == [""]:
            inputs[modality] = torch.from_numpy(stored[name])
        elif what == "input":
            inputs.setdefault(modality, {})[rest[0]] = torch.from_numpy(stored[name])
    with torch.no_grad():
        outputs = model(inputs, masks)
    by_name = {"": outputs} if isinstance(outputs, Tensor) else outputs
    assert set(by_name) == {name.removeprefix("output/") for name in stored.files if name.startswith("output/")}
    for name, output in by_name.items():
        assert list(output.shape) == stored[f"shape/{name}"].tolist()
        values, kept = output.flatten(), stored[f"output/{name}"]
        # Other machines round otherwise: float32 keeps seven digits of the largest terms of a sum.
        assert values[:: -(-len(values) // MOST_VALUES)].numpy() == pytest.approx(kept, rel=1e-5, abs=1e-5)
    shapes = json.loads((expected / "state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == shapes
    assert list(model.state_dict()) == list(shapes)


def test_there_are_fixtures() -> None:
    """One at least of each task; a wrong folder would leave nothing to test."""
    assert len(RUNS) >= 10
    assert len(MODELS) >= 2


@pytest.mark.parametrize("fixture", RUNS, ids=lambda one: one.name)
def test_a_run_directory_loads(fixture: Path, tmp_path: Path) -> None:
    directory = unpacked(fixture, tmp_path) / "run"
    model = perceiver.load(directory)
    assert not model.training
    assert_outputs(model, fixture / "expected")
    again = perceiver.load(perceiver.save(model, tmp_path / "again.ckpt"))
    assert_outputs(again, fixture / "expected")
    assert again.spec == model.spec == read(directory).spec


@pytest.mark.parametrize("fixture", MODELS, ids=lambda one: one.name)
def test_a_saved_model_loads(fixture: Path) -> None:
    model = from_pretrained(fixture) if (fixture / "config.json").exists() else perceiver.load(fixture / "model.ckpt")
    assert_outputs(model, fixture / "expected")


@that("test")
def test_it_is_tested_as_then(fixture: Path, tmp_path: Path) -> None:
    directory, _ = do("test", fixture, tmp_path)
    metrics, expected = metrics_of(directory), json.loads((fixture / "expected" / "test.json").read_text())
    assert set(metrics) == set(expected)
    assert without_time(metrics) == pytest.approx(without_time(expected), rel=1e-4, abs=1e-4)
    trained = {name: value for name, value in metrics_of(fixture / "run").items() if name in metrics}
    assert without_time(metrics) == pytest.approx(without_time(trained), rel=1e-4, abs=1e-4)


@that("resume")
def test_it_is_continued_as_then(fixture: Path, tmp_path: Path) -> None:
    """Optimizer, schedule, random state and the place in the epoch: without one of them, other losses come out."""
    directory, _ = do("resume", fixture, tmp_path)
    metrics, expected = metrics_of(directory), json.loads((fixture / "expected" / "resume.json").read_text())
    assert set(metrics) == set(expected)
    # Another machine rounds otherwise, which may turn a decision, but hardly a mean.
    exact = {"epochs", "parameters", "best_epoch"}
    assert {name: metrics[name] for name in exact} == {name: expected[name] for name in exact}
    for name in [name for name in expected if "loss" in name]:
        assert metrics[name] == pytest.approx(expected[name], rel=1e-3), name
    assert (directory / "checkpoints" / "last.ckpt").is_file()


@that("predict")
def test_it_predicts_as_then(fixture: Path, tmp_path: Path) -> None:
    """Without a data group: the one of the run directory is found."""
    directory, _ = do("predict", fixture, tmp_path)
    expected = fixture / "expected"
    rows, kept = (list(csv.reader((one / "predictions.csv").read_text().splitlines())) for one in (directory, expected))
    assert len(rows) == len(kept) > 1
    assert rows[0] == kept[0]
    for row, earlier in zip(rows[1:], kept[1:], strict=True):
        for cell, before in zip(row, earlier, strict=True):
            assert cell == before or float(cell) == pytest.approx(float(before), rel=1e-4, abs=1e-5)
    files = sorted(file.name for file in (expected / "predictions").glob("*"))
    assert files == sorted(file.name for file in (directory / "predictions").glob("*"))
    for name in files:
        if name.endswith(".npy"):
            one, other = (np.load(folder / "predictions" / name) for folder in (directory, expected))
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
        else:
            assert (directory / "predictions" / name).read_bytes() == (expected / "predictions" / name).read_bytes()


@that("finetune")
def test_it_is_a_start_for_another_training(fixture: Path, tmp_path: Path) -> None:
    directory, out = do("finetune", fixture, tmp_path)
    assert f"Started from {tmp_path}/copy/run" in out
    before, after = perceiver.load(tmp_path / "copy" / "run"), perceiver.load(directory)
    shared = [name for name in before.state_dict() if not name.startswith("head.")]
    assert len(shared) > 20
    assert set(shared) == {name for name in after.state_dict() if not name.startswith("head.")}


def test_a_saved_directory_is_a_start_too(tmp_path: Path) -> None:
    source = FIXTURES / "models" / "pretrained"
    settings = [word for word in commands(FIXTURES / "runs" / "digits")["finetune"] if not word.startswith("init_from=")]
    code, out, err = train(*settings, f"init_from={source}", f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    assert f"Started from {source}" in out


def without_time(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != SECONDS}
