"""Trainings of one or two processes, one after another, each a fork of this process: `python forked_ranks.py PLAN RESULTS`.

Run by test_ranks.py, which needs more of them than imports would leave time for. The second process is a child of the first,
as `perceiver.run.processes.launch` has it, and gets the same environment. PLAN is JSON, a list of {"processes", "arguments"}
and, if something is to happen, "act": a signal that a process sends itself after so many steps; or {"copy": [from, to]}.
RESULTS lists what became of each training: exit status, standard error and the samples seen, by process.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from perceiver.run.main import main
from perceiver.run.modes import fit
from perceiver.run.processes.launch import PARENT


class Probe(Callback):
    """Notes epoch and ids of every batch, and acts once."""

    def __init__(self, *, file: Path, act: dict[str, Any] | None) -> None:
        self.file = file
        self.act = act
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append([trainer.current_epoch, batch.ids])
        self.file.write_text(json.dumps(self.seen))

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        act = self.act
        if act is not None and trainer.global_rank == act["rank"] and trainer.global_step == act["step"]:
            self.act = None
            os.kill(os.getpid(), signal.Signals[act["signal"]])


def train(rank: int, run: dict[str, Any], scratch: Path, *, child: int | None = None) -> None:
    """Ends this process, and its child where it failed, as the launcher of ranks does."""
    descriptor = os.open(scratch / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    os.dup2(os.open(scratch / f"{rank}.out", os.O_WRONLY | os.O_CREAT), 1)
    made = fit.make_trainer
    probe = Probe(file=scratch / f"{rank}.json", act=run.get("act"))
    fit.make_trainer = lambda plain, callbacks, **settings: made(plain, [*callbacks, probe], **settings)
    # What takes time and is looked at elsewhere: the confusion matrix, the description of the model.
    mock.patch.multiple(fit, ConfusionFigures=lambda **_: Callback(), print_model=lambda *_, **__: None).start()
    sys.argv = ["train.py", *run["arguments"]]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    if child is not None:
        if code:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # What the process would do at its end, without the end of an interpreter that was forked.
    atexit._run_exitfuncs()
    os._exit(code)


def start(run: dict[str, Any], scratch: Path) -> int:
    """The first process, which forks the second."""
    first = os.fork()
    if first:
        return first
    if run["processes"] == 1:
        train(0, run, scratch)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    parent = str(os.getpid())
    if child := os.fork():
        train(0, run, scratch, child=child)
    os.environ |= {"LOCAL_RANK": "1", PARENT: parent}
    train(1, run, scratch)
    return 0


def outcome(run: dict[str, Any]) -> dict[str, Any]:
    """Run a training; return the exit status of the first process, and the output and samples of each process."""
    scratch = Path(tempfile.mkdtemp())  # no context manager: forks would tidy it up at their end
    _, status = os.waitpid(start(run, scratch), 0)
    ranks = range(run["processes"])
    seen = [scratch / f"{rank}.json" for rank in ranks]
    found = {
        "code": os.waitstatus_to_exitcode(status),
        "errors": [(scratch / f"{rank}.err").read_text() for rank in ranks],
        "seen": [json.loads(file.read_text()) if file.exists() else [] for file in seen],
    }
    shutil.rmtree(scratch)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text())
    results = []
    for entry in plan:
        if "copy" in entry:
            shutil.copytree(*entry["copy"])
        else:
            results.append(outcome(entry))
    Path(sys.argv[2]).write_text(json.dumps(results))
