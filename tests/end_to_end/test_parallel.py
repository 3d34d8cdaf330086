"""Several processes: the same training as in one, one run directory, and what is left when one of them dies."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

import perceiver
from perceiver.data import DataModule, Digits
from perceiver.run.configuration.learning_rate import LearningRateScaling, ScaledOptimizer
from perceiver.training.task import counted

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SMALL = (
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_layers_per_block=1",
    "callbacks.samples=null",
    "callbacks.attention=null",
    "trainer.max_epochs=1",
)
TWO = ("trainer.accelerator=cpu", "trainer.devices=2")


def environment(repository: Path) -> dict[str, str]:
    """One thread for each process; no trace of other ranks."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}


def train(repository: Path, *overrides: str, launcher: tuple[str, ...] = (), **variables: str) -> Any:
    """Run train.py, or a launcher of it, to its end."""
    command = [sys.executable, *launcher, "train.py", *overrides]
    environ = {**environment(repository), **variables}
    return subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True, timeout=300)


def descendants_in(directory: Path) -> list[str]:
    """Processes whose command line names a run directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and "train.py" in line:
            found.append(line)
    return found


# ---- the same training


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, dict[str, list[float]]]:
    """By strategy and model."""
    folder = tmp_path_factory.mktemp("curves")
    for strategy in ("auto", "ddp", "fsdp2"):
        command = [sys.executable, str(SUPPORT / "loss_curves.py"), strategy, str(folder / strategy)]
        done = subprocess.run(command, env=environment(repository), cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return {strategy: json.loads((folder / strategy).read_text()) for strategy in ("auto", "ddp", "fsdp2")}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("model", ["whole", "halves"])
def test_two_processes_learn_what_one_does(curves: dict[str, Any], strategy: str, model: str) -> None:
    """The global batches are the same; in the model of halves, the second process never has the lower one."""
    one, two = torch.tensor(curves["auto"][model]), torch.tensor(curves[strategy][model])
    assert len(one) == 20
    assert one[-1] < one[0] - 0.1
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)


# ---- through the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Path]:
    """The same model trained for an epoch in one process, with DDP and with FSDP2 in two, on equal global batches."""
    folder = tmp_path_factory.mktemp("trained")
    for name, overrides in {
        "single": ("trainer=single", "data.batch_size=64"),
        "ddp": ("trainer=ddp", *TWO, "data.batch_size=32"),
        "fsdp2": ("trainer=fsdp2", *TWO, "data.batch_size=32"),
    }.items():
        done = train(repository, *SMALL, *overrides, f"hydra.run.dir={folder / name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Test accuracy") == 1, "only the first process reports"
        assert done.stderr == ""
    return {name: folder / name for name in ("single", "ddp", "fsdp2")}


def test_a_run_of_two_processes_leaves_what_one_leaves(trained: dict[str, Path]) -> None:
    listed = {
        name: sorted(str(file.relative_to(run)) for file in run.rglob("*") if "tensorboard" not in str(file))
        for name, run in trained.items()
    }
    assert listed["ddp"] == listed["single"]
    assert set(listed["single"]) - set(listed["fsdp2"]) == set()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_metrics_are_of_every_sample_once(trained: dict[str, Path], strategy: str) -> None:
    """What `mode=test` in one process says of the checkpoint is what the two processes said of it."""
    model = perceiver.load(trained[strategy])
    assert type(model) is perceiver.Perceiver
    data = perceiver_digits(trained[strategy])
    right, seen, loss = 0, 0, 0.0
    with torch.no_grad():
        for batch in data:
            logits = model(batch.inputs, batch.masks)
            right += int((logits.argmax(1) == batch.target).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, batch.target, reduction="sum"))
            seen += len(batch.target)
    metrics = json.loads((trained[strategy] / "metrics.json").read_text())
    assert metrics["test/accuracy"] == pytest.approx(right / seen, abs=1e-6)
    assert metrics["test/loss"] == pytest.approx(loss / seen, rel=1e-5)


def perceiver_digits(run: Path) -> Any:
    """The test batches of a run on digits: 360 samples in batches that two processes do not share evenly."""
    data = DataModule.of(Digits, batch_size=50)
    data.setup("fit")
    spec = perceiver.load(run).spec
    assert spec is not None
    data.spec = spec
    data.setup("test")
    return data.test_dataloader()


def test_a_sweep_of_four_jobs_in_two_processes_each(repository: Path, tmp_path: Path) -> None:
    quick = ("trainer=ddp", *TWO, "trainer.limit_train_batches=2", "test=false", "logger=none")
    done = train(repository, "-m", *SMALL, *quick, "seed=0,1,2,3", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "1", "2", "3", "best.json", "multirun.yaml"]
    assert len(list(tmp_path.rglob("metrics.json"))) == 4
    assert len(list(tmp_path.rglob("last.ckpt"))) == 4
    seeds = [json.loads((tmp_path / "sweep" / str(job) / "metrics.json").read_text())["val/loss"] for job in range(4)]
    assert len(set(seeds)) == 4, "each job has its own values"
    assert descendants_in(tmp_path) == []


def test_torchrun_shares_one_run_directory(repository: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    quick = ("trainer=ddp", *TWO, "trainer.limit_train_batches=2", "test=false", "logger=none")
    run = tmp_path / "run"
    done = train(repository, *SMALL, *quick, f"hydra.run.dir={run}", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert [path.parent for path in tmp_path.rglob("metrics.json")] == [run]
    assert done.stdout.count("Run directory") == 1
    assert "processes of 32" in done.stdout


@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_process_that_dies_stops_the_others(repository: Path, tmp_path: Path, victim: str) -> None:
    command = [sys.executable, "train.py", *SMALL, "trainer=ddp", *TWO, "trainer.max_epochs=5000", "logger=none"]
    command.append(f"hydra.run.dir={tmp_path / 'run'}")
    first = subprocess.Popen(
        command, cwd=repository, env=environment(repository), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < until
            assert first.poll() is None
            time.sleep(0.2)
        [second] = [int(child) for child in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
        os.kill(first.pid if victim == "first" else second, signal.SIGKILL)
        _, errors = first.communicate(timeout=60)
        until = time.monotonic() + 30
        while descendants_in(tmp_path / "run"):
            assert time.monotonic() < until, "an orphan"
            time.sleep(0.2)
    finally:
        first.kill()
    if victim == "second":
        assert first.returncode == 1
        [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert f"rank 1 (process {second}) was killed by SIGKILL" in line
        assert "ckpt_path=" in line
    assert perceiver.load(tmp_path / "run" / "checkpoints" / "last.ckpt").spec is not None


def test_a_port_in_use(repository: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = tmp_path / "run"
        done = train(repository, *SMALL, "trainer=ddp", *TWO, "logger=none", f"hydra.run.dir={run}", MASTER_PORT=port)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: MASTER_PORT={port}: ")
    assert "unset it" in line


# ---- evaluation counts every sample once


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
@pytest.mark.parametrize("samples", [1, 7, 8, 9, 23])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_every_sample_counts_once(samples: int, processes: int, batch: int) -> None:
    data = list(range(samples))
    seen: list[int] = []
    for rank in range(processes):
        sampler = DistributedSampler(data, num_replicas=processes, rank=rank, shuffle=False)  # type: ignore[arg-type, var-annotated]
        loader = DataLoader(data, batch_size=batch, sampler=sampler)  # type: ignore[arg-type, var-annotated]
        task = SimpleNamespace(trainer=SimpleNamespace(val_dataloaders=loader))
        for number, own in enumerate(loader):
            seen += own[: counted(task, "val", number, len(own))].tolist()  # type: ignore[arg-type]
    assert sorted(seen) == data


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
def test_other_samplers_count_all() -> None:
    loader = DataLoader(list(range(5)), batch_size=2)  # type: ignore[arg-type, var-annotated]
    task = SimpleNamespace(trainer=SimpleNamespace(val_dataloaders=loader))
    assert counted(task, "val", 2, 1) == 1  # type: ignore[arg-type]


# ---- the learning rate of the global batch


def config(rule: str | None, *, base: Any = 256, lr: Any = 1e-3, batch: int | None = 64) -> dict[str, Any]:
    data = {} if batch is None else {"batch_size": batch}
    return {"optimizer": {"lr": lr}, "data": data, "lr_scaling": {"rule": rule, "base_batch": base}}


def scale_learning_rate(given: dict[str, Any], trainer: Any) -> ScaledOptimizer:
    return LearningRateScaling(**given["lr_scaling"])(given, trainer)


def trainer(*, processes: int = 8, accumulated: int = 2) -> Any:
    return SimpleNamespace(world_size=processes, accumulate_grad_batches=accumulated)


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
@pytest.mark.parametrize(("rule", "factor"), [(None, 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_learning_rates_scale(rule: str | None, factor: float) -> None:
    given = config(rule)
    scaled = scale_learning_rate(given, trainer())
    assert math.isclose(scaled.optimizer["lr"], 1e-3 * factor)
    assert given["optimizer"]["lr"] == 1e-3
    assert "global batch 1024 (8 processes of 64 samples, 2 batches accumulated)" in scaled.explanation
    assert ("becomes" in scaled.explanation) == (rule is not None)


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
def test_one_process_says_nothing_of_batches() -> None:
    assert scale_learning_rate(config(None), trainer(processes=1, accumulated=1)).explanation == ""


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (config("cubic"), "rule=cubic"),
        (config("linear", base=0), "base_batch=0"),
        (config("linear", lr=None), "optimizer.lr, got None"),
        (config("linear", batch=None), "data.batch_size"),
    ],
)
def test_learning_rate_errors(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        scale_learning_rate(given, trainer())
