"""`cluster=slurm` with a stand-in for SLURM: what is submitted; a job that is told of its end goes on in the queue."""

import os
import signal
import time
from pathlib import Path

import pytest
from hydra.types import RunMode
from hydra_runs import SMALL, metrics_of
from omegaconf import OmegaConf
from slurm_stand_in import install, options
from warm_process import ADDRESS, address, start

from perceiver.run.processes.one_directory import require_one_directory

JOB = (
    *SMALL, "trainer.max_epochs=30", "trainer.limit_train_batches=4", "logger=none",
    "callbacks.samples=null", "callbacks.attention=null", "trainer.accelerator=cpu", "test=false",
    "callbacks.last.every_n_epochs=1000",
)  # fmt: skip


def test_a_job_that_is_told_of_its_end_goes_on_in_the_queue(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("submitit", reason="needs pip install -e '.[cluster]'")
    slurm, sweep = tmp_path / "slurm", tmp_path / "sweep"
    install(slurm)
    environment = {**os.environ, "PATH": f"{slurm}:{os.environ['PATH']}", "PYTHONPATH": str(repository), ADDRESS: address()}
    chosen = ("cluster=slurm", "hydra.launcher.partition=short", "hydra.launcher.gpus_per_node=null", "seed=3")
    launcher = start("train.py", *JOB, *chosen, f"hydra.sweep.dir={sweep}", env=environment)
    try:
        while not (sweep / "0" / "checkpoints" / "best.ckpt").exists():
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.02)
        for task in (slurm / "1000.tasks").read_text().split():
            os.kill(int(task), signal.SIGUSR2)
        output, errors = launcher.communicate(timeout=240)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, errors

    asked = options((slurm / "1000.sh").read_text())
    expected = {"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "8", "partition": "short", "time": "1440"}
    assert asked.items() >= {**expected, "signal": "USR2@300"}.items()
    assert "gpus-per-node" not in asked
    assert (slurm / "1000.requests").read_text() == "requeue\n", "and the second time it ends by itself"
    assert (slurm / "1000.runs").read_text() == "run\nrun\n"
    message = "".join(file.read_text() for file in (sweep / ".submitit").rglob("*.err"))
    assert f"stopped by SIGUSR2: {sweep}/0/checkpoints/last.ckpt is kept" in message
    assert metrics_of(sweep / "0")["epochs"] == 30
    assert sorted(path.name for path in sweep.iterdir()) == [".submitit", "0", "best.json", "multirun.yaml"]
    assert "Best of 1 jobs" in output


# ---- one directory where torchrun or srun start the processes


TORCHRUN = {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
ONE_TASK = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}


@pytest.mark.parametrize(
    ("variables", "starter"),
    [(TORCHRUN, "torchrun"), (SRUN, "srun"), (ONE_TASK, None), ({**SRUN, "SUBMITIT_EXECUTOR": "slurm"}, None), ({}, None)],
)
def test_directories_named_after_the_time_are_refused(
    variables: dict[str, str], starter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {*TORCHRUN, *SRUN, "SUBMITIT_EXECUTOR"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    named = {"run": {"dir": "runs/${now:%H-%M}"}, "sweep": {"dir": "runs/sweeps/${now:%H-%M}"}}
    for mode, key in ((RunMode.RUN, "run"), (RunMode.MULTIRUN, "sweep")):
        hydra = OmegaConf.create({**named, "mode": mode})
        if starter is None:
            require_one_directory(hydra)
        else:
            with pytest.raises(ValueError, match=rf"^hydra\.{key}\.dir: .*{starter} starts several.*hydra\.{key}\.dir=DIR"):
                require_one_directory(hydra)
        hydra[key].dir = "runs/mine"
        require_one_directory(hydra)
