"""A cross-validation of two processes: those of torchrun train all folds; Lightning starts the second for each fold."""

import csv
import os
import shutil
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


@pytest.mark.slow
def test_torchrun_trains_all_folds_and_lightning_continues_with_one(tmp_path: Path, repository: Path) -> None:
    directory = tmp_path / "run"
    plan = [{"processes": 2, "torchrun": True, "arguments": [*SETTINGS, f"hydra.run.dir={directory}"]}]
    [result] = outcomes(plan, tmp_path)
    assert result["code"] == 0, result["errors"]
    assert "".join(result["output"]).count("Cross-validation, 2 folds") == 1
    check(directory)

    shutil.rmtree(directory / "fold_1")
    (directory / "metrics.json").unlink()
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    again = (f"ckpt_path={directory}", f"hydra.run.dir={tmp_path / 'other'}")
    output, errors = start("train.py", *SETTINGS, *again, env=environment).communicate(timeout=200)
    assert "Cross-validation, 2 folds" in output, errors
    assert output.count("Test accuracy") == 1
    check(directory)
