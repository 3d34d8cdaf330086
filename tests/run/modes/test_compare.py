"""mode=compare: one table of several runs, and errors in one line."""

import csv
import json
from pathlib import Path

import pytest
from hostile_models import checkpoint, set_value
from hydra_runs import run

from perceiver.run.modes.compare import short_names


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs, whose encoders differ."""
    made = []
    for name, dropout in (("a", 0.0), ("b", 0.5)):
        folder = tmp_path / "runs" / name
        checkpoint(folder / "checkpoints", lambda model, d=dropout: set_value(model, "encoder.dropout", d), name="best.ckpt")
        (folder / "metrics.json").write_text(json.dumps({"test/accuracy": 0.9 - dropout / 10, "seconds": 3, "note": "x"}))
        (folder / "csv").mkdir()
        (folder / "csv" / "metrics.csv").write_text("epoch,step,val/loss\n0,1,2.0\n1,2,1.5\n")
        made.append(folder)
    return made


def test_comparison(runs: list[Path], tmp_path: Path) -> None:
    first, second = runs
    job = tmp_path / "job"
    code, out, err = run("mode=compare", f"compare=[{first},{second}]", f"hydra.run.dir={job}")
    assert code == 0, err
    with (job / "comparison.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["", "a", "b"],
        ["test/accuracy", "0.9", "0.85"],
        ["seconds", "3", "3"],
        ["model.encoder.dropout", "0", "0.5"],
    ]
    assert (job / "comparison.png").stat().st_size > 1000
    assert "test/accuracy" in out
    assert "comparison.csv, comparison.png" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "mode=compare: expected 'compare=[RUN1,RUN2]', two run directories or more, got None"),
        (("compare=[{a}]",), "mode=compare: expected 'compare=[RUN1,RUN2]'"),
        (("compare=[{a},{tmp}]",), "expected a run directory with metrics.json"),
    ],
)
def test_errors(arguments: tuple[str, ...], words: str, runs: list[Path], tmp_path: Path) -> None:
    typed = [argument.format(a=runs[0], tmp=tmp_path) for argument in arguments]
    code, _, err = run("mode=compare", *typed, f"hydra.run.dir={tmp_path / 'job'}")
    assert code == 1
    assert words in err


def test_short_names() -> None:
    assert short_names([Path("x/1/run"), Path("y/1/run")]) == ["x/1/run", "y/1/run"]
    assert short_names([Path("x/1"), Path("x/2")]) == ["1", "2"]
    assert short_names([Path("x"), Path("x")]) == ["0: x", "1: x"]
