"""The example of a modality outside of this repository: installed elsewhere, it is tested, trains and predicts."""

import ast
import csv
import doctest
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra_runs import run as train
from PIL import Image
from warm_process import python

import perceiver
from perceiver.testing import check_adapter

NAME = "thermometer"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the example's folder, and in `site` beside it the package as pip lays it out."""
    folder = tmp_path_factory.mktemp("elsewhere")
    copy = folder / "project"
    shutil.copytree(repository / "examples" / NAME, copy, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*command, folder / "site", copy], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(copy / NAME)
    return copy


def run(*arguments: str | Path, project: Path, cwd: Path, repository: Path) -> str:
    """Python with the installed package, and without the test suite's own settings; what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(project.parent / "site"), str(repository)])
    done = python(*arguments, cwd=cwd, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(project: Path) -> Path:
    """A run directory of train.py, with nothing named but folder and data."""
    folder = project.parent / "run"
    arguments = ("trainer.max_epochs=15", "optimizer.lr=3e-3", "logger=none", f"hydra.run.dir={folder}")
    data = ("data=manifest", f"data.manifest={project / 'days.csv'}", "data.num_workers=0")
    kind = "data.modalities={readings: {kind: thermometer.Readings}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project.parent / "site")
        finished = train("--config-dir", str(project / "conf"), *data, kind, *arguments)
    forget()
    assert finished.code == 0, finished.err
    return folder


def forget() -> None:
    """Unload the package, as if it had not been imported."""
    for module in [module for module in sys.modules if module.partition(".")[0] == NAME]:
        del sys.modules[module]


@pytest.fixture
def importable(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The installed package in this process."""
    monkeypatch.syspath_prepend(project.parent / "site")
    yield
    forget()


def test_its_own_tests_pass(project: Path, repository: Path) -> None:
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", project=project, cwd=project, repository=repository)
    assert "26 passed" in printed


def test_two_classes_of_under_forty_lines(repository: Path) -> None:
    for name in ("adapter", "readings"):
        tree = ast.parse((repository / "examples" / NAME / NAME / f"{name}.py").read_text())
        (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
        assert cls.end_lineno is not None
        assert cls.end_lineno - cls.lineno < 40


def test_it_trains_through_config_dir(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["test/accuracy"] > 0.85
    assert (trained / "figures" / "attention_readings_val.png").is_file()


@pytest.mark.usefixtures("importable")
def test_the_trained_model_predicts(trained: Path, project: Path) -> None:
    model = perceiver.load(trained, trust=[NAME])
    with (project / "days.csv").open() as file:
        days = list(csv.DictReader(file))
    predictions = model.predict([json.loads(day["readings"]) for day in days])
    right = [one.label == day["label"] for one, day in zip(predictions, days, strict=True)]
    assert sum(right) > 0.8 * len(right)


@pytest.mark.usefixtures("importable")
def test_its_adapter_passes_with_shape_checks_too(project: Path) -> None:
    from thermometer import Thermometer  # type: ignore[import-not-found]

    position = perceiver.Fourier(num_bands=4, resolution=[24])
    check_adapter(
        lambda: Thermometer(position=position, step_seconds=3600.0, duration_seconds=86400.0),
        lambda: torch.randn(3, 1, 20),
        grid_axes=(2,),
    )


def test_a_stranger_must_trust_it_first(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"thermometer\.readings\.Readings.*trust=\['thermometer'\]"):
        perceiver.load(trained)
    assert NAME not in sys.modules


def test_the_parts_that_make_the_emoji(repository: Path) -> None:
    """Names, files and squares of the script; the font and the package emoji are not there."""
    spec = importlib.util.spec_from_file_location("rebuild", repository / "examples" / "emoji" / "rebuild.py")
    assert spec is not None
    assert spec.loader is not None
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    results = doctest.testmod(rebuild)
    assert (results.attempted, results.failed) == (4, 0)
    picture = Image.new("RGBA", (128, 64), (255, 0, 0, 255))
    square = rebuild.squared(picture)
    assert square.shape == (64, 64, 3)
    assert square[32, 32].tolist() == [255, 0, 0]
    assert square[2, 32].tolist() == [255, 255, 255]
    assert rebuild.of_svg(repository, "🥇") is None
