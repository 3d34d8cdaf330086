"""The end of a sweep: the best trial, the command that trains it again, and what is said of failures and missing extras."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra_runs import QUIET, SMALL, metrics_of
from hydra_runs import run as train

from perceiver.run.reporting.best_job import best_of

QUICK = (
    *SMALL, "trainer.max_epochs=1", "trainer.limit_train_batches=3", "logger=none", *QUIET,
    "model.encoder.num_latents=4", "trainer.gradient_clip_val=null",
)  # fmt: skip


def test_a_search_of_eight_trials_ends_with_the_best_and_its_command(tmp_path: Path) -> None:
    """A setting that is refused is among them: its trial fails, the search goes on; the command repeats the best."""
    pytest.importorskip("optuna", reason="needs pip install -e '.[sweep]'")
    finished = train(
        "hparams_search=optuna", "data=digits", *[word for word in QUICK if not word.startswith("optimizer.lr")],
        "hydra.sweeper.n_trials=8", f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "optimizer.lr=interval(1e-3,1e-2)", "task.label_smoothing=choice(0.0,0.1,2.0,3.0)",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    jobs = [json.loads((tmp_path / "sweep" / str(n) / "job.json").read_text()) for n in range(8)]
    values = [job["value"] for job in jobs if job["error"] is None]
    assert 0 < len(values) < 8, "some trials fail and some do not"
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert best["value"] == max(values)
    assert {word.split("=")[0] for word in best["parameters"]} == {
        "optimizer.lr", "optimizer.weight_decay", "model.encoder.dropout", "task.label_smoothing",
    }  # fmt: skip
    assert best["command"] in finished.out
    assert "failed: task.label_smoothing: expected" in finished.out
    words = shlex.split(best["command"])
    again = train(*[word for word in words if "=" in word], f"hydra.run.dir={tmp_path / 'again'}")
    assert again.code == 0, again.err
    metrics = metrics_of(tmp_path / "again")
    assert metrics["val/accuracy"] == best["value"]
    assert "test/accuracy" in metrics


def test_the_best_goes_by_the_direction() -> None:
    jobs = [{"number": n, "value": value} for n, value in enumerate([0.5, None, 0.9, 0.1, 0.9])]
    assert best_of(jobs, mode="max") == jobs[2]
    assert best_of(jobs, mode="min") == jobs[3]
    assert best_of(jobs[1:2], mode="max") is None


@pytest.mark.parametrize(("choice", "extra"), [("hparams_search=optuna", "sweep"), ("cluster=slurm", "cluster")])
def test_a_missing_extra_is_named(choice: str, extra: str) -> None:
    program = "import sys; sys.modules['hydra_plugins'] = None; from perceiver.run.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program, choice], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"pip install 'perceiver-multimodal[{extra}]'" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
