"""Several processes: the same training as in one, one run directory, and what is left when one of them dies."""

import csv
import json
import math
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked_ranks import outcomes
from hydra_runs import QUIET, SMALL, metrics_of, run
from made_once import made_once
from torch.utils.data import DataLoader, DistributedSampler
from warm_process import start

import perceiver
from perceiver.data import DataModule, Digits
from perceiver.run.configuration.learning_rate import LearningRateScaling, ScaledOptimizer
from perceiver.run.processes.launch import PARENT
from perceiver.training.task import counted

ONE_EPOCH = (*SMALL, *QUIET, "trainer.max_epochs=1")
TWO = ("trainer.accelerator=cpu", "trainer.devices=2")


def environment(repository: Path) -> dict[str, str]:
    """One thread for each process; no trace of other ranks."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what forked processes train: curves by strategy, and run directories.

    `single` and `fsdp2` have the same model trained for an epoch, in one process and in two, on equal global batches, and
    so has the first job of `sweep`.
    """

    def make(folder: Path) -> None:
        single = (*ONE_EPOCH, "trainer=single", "data.batch_size=64", f"hydra.run.dir={folder / 'single'}")
        fsdp = (*ONE_EPOCH, "trainer=fsdp2", *TWO, "data.batch_size=32", f"hydra.run.dir={folder / 'fsdp2'}")
        ddp = (*ONE_EPOCH, "trainer=ddp", *TWO, "logger=none")
        dies = (*ddp, f"hydra.run.dir={folder / 'dies'}", "data.batch_size=32")
        started = (*ddp, f"hydra.run.dir={folder / 'torchrun'}", "data.batch_size=64", "trainer.limit_train_batches=2")
        curves = [
            {"processes": processes, "call": ["loss_curves", "write", strategy, str(folder / f"{strategy}.json")]}
            for strategy, processes in (("auto", 1), ("ddp", 2), ("fsdp2", 2))
        ]
        plan = [
            *curves,
            {"processes": 1, "arguments": single, "figures": True},
            {"processes": 2, "arguments": fsdp, "figures": True},
            {"processes": 2, "arguments": dies, "act": {"rank": 0, "step": 3, "signal": "SIGKILL"}},
            {"processes": 2, "arguments": (*rows_without_text(folder), *TWO, f"hydra.run.dir={folder / 'texts'}")},
            {"processes": 2, "torchrun": True, "arguments": started, "figures": True},
        ]
        for result in outcomes(plan, folder):
            assert result["code"] == (-signal.SIGKILL if "act" in result["plan"] else 0), result["errors"]
            assert not result["orphan"], result["errors"]
            if "figures" in result["plan"]:
                assert not any(result["errors"])
                assert "".join(result["output"]).count("Test accuracy") == 1

    return made_once(tmp_path_factory, "parallel", make)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of a sweep of two jobs, each of two processes: the first ends, the second process of the other is killed.

    The second processes are started as on a user's machine.
    """

    def make(folder: Path) -> None:
        settings = (*SMALL, *QUIET, "trainer=ddp", *TWO, "data.batch_size=32", "trainer.max_epochs=1,5000")
        job = folder / "sweep" / "1"
        first = start("train.py", "-m", *settings, f"hydra.sweep.dir={job.parent}", env=environment(repository))
        try:
            until = time.monotonic() + 120
            while not (job / "checkpoints" / "last.ckpt").exists():
                assert time.monotonic() < until
                assert first.poll() is None, first.communicate()
                time.sleep(0.2)
            [second] = [int(one) for one in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
            words = Path(f"/proc/{second}/environ").read_text().split("\0")
            theirs = dict(word.split("=", 1) for word in words if "=" in word)
            assert theirs[PARENT] == str(first.pid), "by which the second ends when the first dies"
            assert "trainer.max_epochs=5000" in Path(f"/proc/{second}/cmdline").read_text().split("\0")
            os.kill(second, signal.SIGKILL)
            output, errors = first.communicate(timeout=60)
            until = time.monotonic() + 30
            while descendants_in(folder):
                assert time.monotonic() < until, "an orphan"
                time.sleep(0.2)
        finally:
            first.kill()
        assert first.returncode == 1
        assert output.count("Test accuracy") == 1, "only the first process reports"
        (folder / "errors").write_text(errors)
        (folder / "killed").write_text(str(second))

    return made_once(tmp_path_factory, "sweep_of_two_processes", make)


# ---- the same training


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("model", ["whole", "halves"])
def test_two_processes_learn_what_one_does(runs: Path, strategy: str, model: str) -> None:
    """The global batches are the same; in the model of halves, the second process never has the lower one."""
    one, two = (torch.tensor(json.loads((runs / f"{name}.json").read_text())[model]) for name in ("auto", strategy))
    assert len(one) == 20
    assert one[-1] < one[0] - 0.1
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)


# ---- through the command line


def test_a_run_of_two_processes_leaves_what_one_leaves(runs: Path, sweep: Path) -> None:
    directories = {"single": runs / "single", "fsdp2": runs / "fsdp2", "ddp": sweep / "sweep" / "0"}
    listed = {
        name: {str(file.relative_to(folder)) for file in folder.rglob("*") if "tensorboard" not in str(file)}
        for name, folder in directories.items()
    }
    assert listed["ddp"] == {*listed["single"], "job.json"}
    assert listed["single"] - listed["fsdp2"] == set()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_metrics_are_of_every_sample_once(runs: Path, sweep: Path, strategy: str) -> None:
    """The metrics of the two processes are those of the checkpoint in one process."""
    run = sweep / "sweep" / "0" if strategy == "ddp" else runs / strategy
    model = perceiver.load(run)
    assert type(model) is perceiver.Perceiver
    data = perceiver_digits(run)
    right, seen, loss = 0, 0, 0.0
    with torch.no_grad():
        for batch in data:
            logits = model(batch.inputs, batch.masks)
            right += int((logits.argmax(1) == batch.target).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, batch.target, reduction="sum"))
            seen += len(batch.target)
    metrics = metrics_of(run)
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


def test_a_sweep_of_jobs_in_two_processes_each(sweep: Path) -> None:
    """A directory for each job; each second process had the values of its job."""
    assert {path.name for path in (sweep / "sweep").iterdir()} == {"0", "1", "multirun.yaml"}
    assert [path.parent.name for path in sweep.rglob("metrics.json")] == ["0"]
    assert sorted(path.parent.parent.name for path in sweep.rglob("last.ckpt")) == ["0", "1"]


def test_a_process_that_dies_stops_the_first(sweep: Path) -> None:
    """Its job fails with one error, and the last checkpoint is kept."""
    [line] = [line for line in (sweep / "errors").read_text().splitlines() if line.startswith("error: ")]
    assert f"rank 1 (process {(sweep / 'killed').read_text()}) was killed by SIGKILL" in line
    assert "ckpt_path=" in line
    assert perceiver.load(sweep / "sweep" / "1" / "checkpoints" / "last.ckpt").spec is not None


def test_torchrun_shares_one_run_directory(runs: Path) -> None:
    assert (runs / "torchrun" / "metrics.json").is_file()
    [result] = [one for one in json.loads((runs / "results.json").read_text()) if one["plan"].get("torchrun")]
    output = "".join(result["output"])
    assert output.count("Run directory") == 1
    assert "2 processes × 64" in output


def test_the_first_process_does_not_die_alone(runs: Path) -> None:
    """The fixture checks that no orphan is left."""
    assert not (runs / "dies" / "metrics.json").exists()


def test_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before another process is started."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        finished = run(*ONE_EPOCH, "trainer=ddp", *TWO, "logger=none", f"hydra.run.dir={tmp_path / 'run'}")
    assert finished.code == 1
    assert finished.error.startswith(f"error: MASTER_PORT={port}: ")
    assert "unset it" in finished.error
    assert not {"LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()


def rows_without_text(folder: Path) -> tuple[str, ...]:
    """Settings of a masked language model whose batches have no text now and then."""
    rows = [("words", "size", "label", "split")]
    for number in range(30):
        text = f"number {number} and some words" if number % 3 == 0 else ""
        rows.append((text, str(number), "ab"[number % 2], ("train", "val", "test")[number // 10]))
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return (
        "data=manifest", f"data.manifest={folder}/rows.csv", "data.num_workers=0",
        "data.modalities={words: text, one: {kind: table, columns: [size]}}", "task=masked_tokens", "task.modality=words",
        *ONE_EPOCH, "data.batch_size=1", "model.head.num_heads=1", "logger=none",
    )  # fmt: skip


def test_batches_without_text_in_some_processes(runs: Path, tmp_path: Path) -> None:
    """A test in one process gives what two gave."""
    overrides = (*rows_without_text(tmp_path), "trainer.accelerator=cpu")
    finished = run(*overrides, "mode=test", f"ckpt_path={runs}/texts", f"hydra.run.dir={tmp_path}/one")
    assert finished.code == 0, finished.err
    single, both = metrics_of(tmp_path / "one"), metrics_of(runs / "texts")
    for name in ("test/loss", "test/accuracy", "test/bits_per_token"):
        assert single[name] == pytest.approx(both[name], rel=1e-5)


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
    scaling = LearningRateScaling(**given["lr_scaling"])
    return scaling(given["optimizer"], batch_size=given["data"].get("batch_size"), trainer=trainer)


def trainer(*, processes: int = 8, accumulated: int = 2) -> Any:
    return SimpleNamespace(world_size=processes, accumulate_grad_batches=accumulated)


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
@pytest.mark.parametrize(("rule", "factor"), [(None, 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_learning_rates_scale(rule: str | None, factor: float) -> None:
    given = config(rule)
    scaled = scale_learning_rate(given, trainer())
    assert math.isclose(scaled.optimizer["lr"], 1e-3 * factor)
    assert given["optimizer"]["lr"] == 1e-3
    assert "global batch 1024 (8 processes × 64 samples, 2 batches accumulated)" in scaled.explanation
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
