"""Trainings that are stopped or killed, and that what is resumed ends as if nothing had happened."""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hydra_runs import run
from lightning.pytorch import Callback, LightningModule, Trainer
from warm_process import python

from perceiver.run.modes import fit

RUN = (
    "data=digits", "model.encoder.num_latents=4", "model.encoder.latent_channels=16", "model.encoder.num_self_heads=2",
    "model.encoder.num_blocks=1", "model.encoder.num_cross_attends=1", "model.encoder.dropout=0.1", "data.batch_size=128",
    "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.devices=1", "logger=csv", "callbacks.samples=null",
    "callbacks.attention=null", "callbacks.attention_by_modality=null", "callbacks.attention_modalities=null",
    "callbacks.report=null", "test=false",
)  # fmt: skip
OTHER = ("trainer.accumulate_grad_batches=2", "data.balanced_sampling=true", "+trainer.val_check_interval=0.5")


class AtStep(Callback):
    """Sends this process a signal while a step is computed."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step = step
        self.number = number

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Once."""
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.step = -1


def train(*arguments: str, stop: AtStep | None = None) -> tuple[int, str]:
    """Exit status and standard error of train.py."""
    made = fit.make_trainer

    def with_stop(plain: Any, callbacks: list[Callback], **settings: Any) -> Trainer:
        return made(plain, [*callbacks, *([] if stop is None else [stop])], **settings)

    with mock.patch.object(fit, "make_trainer", with_stop):
        finished = run(*arguments)
    return finished.code, finished.err


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Runs that were left alone, by their further overrides."""
    made = {}
    for overrides in ((), OTHER):
        directory = tmp_path_factory.mktemp("uninterrupted")
        assert train(*RUN, *overrides, f"hydra.run.dir={directory}") == (0, "")
        made[overrides] = directory
    return made


@pytest.fixture
def compare(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What two runs do not have alike, as the benchmark says."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.delitem(sys.modules, "kills", raising=False)
    return importlib.import_module("kills").compare


@pytest.mark.parametrize(
    ("number", "step", "overrides", "code"),
    [
        (signal.SIGTERM, 3, (), 143),
        (signal.SIGUSR1, 9, (), 138),  # the last step of the first epoch
        (signal.SIGINT, 13, (), 130),
        (signal.SIGTERM, 7, OTHER, 143),
    ],
)
def test_a_stopped_run_ends_as_one_left_alone(
    number: signal.Signals, step: int, overrides: tuple[str, ...], code: int, references: Any, compare: Any, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    arguments = (*RUN, *overrides, f"hydra.run.dir={tmp_path}", "ckpt_path=auto")
    stopped, err = train(*arguments, stop=AtStep(step, number))
    assert stopped == code
    kept = f"{tmp_path}/checkpoints/last.ckpt is kept; continue with the same overrides and ckpt_path={tmp_path} (step "
    assert kept in err.splitlines()[-1]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert train(*arguments, "data.num_workers=1") == (0, ""), "loader processes change nothing, and nobody is warned"
    assert compare(references[overrides], tmp_path) == []
    assert train(*arguments)[0] == 0, "auto has nothing left to do"


def test_a_time_limit_stops_in_good_order(references: Any, compare: Any, tmp_path: Path) -> None:
    arguments = (*RUN, f"hydra.run.dir={tmp_path}", "ckpt_path=auto")
    code, err = train(*arguments, "+trainer.max_time={seconds: 0}")
    assert code == 0
    assert err.startswith(f"stopped by trainer.max_time: {tmp_path}/checkpoints/last.ckpt is kept")
    assert "(step 1)" in err
    assert not [name for name in json.loads((tmp_path / "metrics.json").read_text()) if name.startswith("test/")]
    assert train(*arguments)[0] == 0
    assert compare(references[()], tmp_path) == []


def test_other_batches_on_resuming(tmp_path: Path) -> None:
    arguments = (*RUN, f"hydra.run.dir={tmp_path}", "ckpt_path=auto")
    assert train(*arguments, stop=AtStep(3, signal.SIGTERM))[0] == 143
    code, err = train(*arguments, "data.batch_size=64")
    assert code == 0, err
    assert "was trained with different settings: data.batch_size: 128 -> 64" in err
    # 4 steps of 128 samples are 8 of 64; an epoch has 1,257 samples, so 20 batches.
    kept = json.loads((tmp_path / "metrics.json").read_text())
    assert kept["epochs"] == 2
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4 + 12 + 20


def test_kills(tmp_path: Path) -> None:
    """SIGKILL at random moments; the benchmark does it more often and with several processes."""
    done = python("benchmarks/kills.py", "--kills=1", "--epochs=2", f"--directory={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("differences: none")
