"""A cross-validation of two processes: started by Lightning, anew for each fold, and by torchrun, the same for all folds."""

import csv
import os
from pathlib import Path

import pytest
from forked_ranks import outcomes
from hydra_runs import QUICK, metrics_of
from warm_process import start

SETTINGS = (
    *QUICK, "mode=cross_validate", "data.folds=2", "callbacks.figures=null", "trainer=ddp", "trainer.accelerator=cpu",
    "trainer.devices=2",
)  # fmt: skip


def check(directory: Path) -> None:
    folds = [metrics_of(directory / f"fold_{number}")["test/accuracy"] for number in range(2)]
    assert metrics_of(directory)["test/accuracy"] == pytest.approx(sum(folds) / 2)
    with (directory / "predictions.csv").open(newline="") as file:
        assert len({row["id"] for row in csv.DictReader(file)}) == 1797
    assert not list(directory.rglob("error*.log"))


def test_lightning_starts_the_other_process_for_each_fold(tmp_path: Path, repository: Path) -> None:
    directory = tmp_path / "run"
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    output, errors = start("train.py", *SETTINGS, f"hydra.run.dir={directory}", env=environment).communicate(timeout=200)
    assert "Cross-validation, 2 folds" in output, errors
    assert output.count("Test accuracy") == 2
    check(directory)


def test_processes_of_torchrun_train_all_folds(tmp_path: Path) -> None:
    plan = [{"processes": 2, "torchrun": True, "arguments": [*SETTINGS, f"hydra.run.dir={tmp_path / 'run'}"]}]
    [result] = outcomes(plan, tmp_path)
    assert result["code"] == 0, result["errors"]
    assert "".join(result["output"]).count("Cross-validation, 2 folds") == 1
    check(tmp_path / "run")
