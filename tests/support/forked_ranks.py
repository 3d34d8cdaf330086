"""Trainings of one or two processes, one after another, each a fork of this process: `python forked_ranks.py PLAN RESULTS`.

Importing what a training needs takes longer than the training, and `outcomes` spares it. The second process is
a child of the first, as `perceiver.run.processes.launch` has it, and gets the same environment; with "torchrun": true,
torchrun's agent forks both. PLAN is JSON, a list of
{"processes", "arguments"} and, if something is to happen, "act": a signal that a process sends itself after so many steps;
or {"processes", "call": [module, function, arguments…]} for a function instead of train.py; or {"copy": [from, to]}.
RESULTS lists what became of each training: exit status, standard output, standard error and the samples seen, by process.
"""

import atexit
import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from warm_process import python

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


def exit_code(rank: int, run: dict[str, Any], scratch: Path) -> int:
    """The exit status of a rank, whose output goes to files."""
    descriptor = os.open(scratch / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    os.dup2(os.open(scratch / f"{rank}.out", os.O_WRONLY | os.O_CREAT), 1)
    if "call" in run:
        module, function, *arguments = run["call"]
        work = partial(getattr(importlib.import_module(module), function), *arguments)
    else:
        work = main
        observe(rank, run, scratch)
    code = 0
    try:
        work()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    (scratch / f"{rank}.modules").write_text(json.dumps(sorted(sys.modules)))
    return code


def train(rank: int, run: dict[str, Any], scratch: Path, *, child: int | None = None) -> None:
    """Ends this process, and its child where it failed, as the launcher of ranks does."""
    code = exit_code(rank, run, scratch)
    if child is not None:
        if code:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # What the process would do at its end, without the end of an interpreter that was forked.
    atexit._run_exitfuncs()
    os._exit(code)


def observe(rank: int, run: dict[str, Any], scratch: Path) -> None:
    """Have the training of this process noted and, unless "figures" are asked for, spare what is tested elsewhere."""
    made = fit.make_trainer
    probe = Probe(file=scratch / f"{rank}.json", act=run.get("act"))
    fit.make_trainer = lambda plain, callbacks, **settings: made(plain, [*callbacks, probe], **settings)
    if not run.get("figures"):
        mock.patch.multiple(fit, ConfusionFigures=lambda **_: Callback(), print_model=lambda *_, **__: None).start()
    sys.argv = ["train.py", *run["arguments"]]


def torchrun(run: dict[str, Any], scratch: Path) -> None:
    """Ends this process as `torchrun --standalone` ends; its agent sets the variables of the ranks."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "standalone", "start_method": "fork"}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=run["processes"], **settings)  # type: ignore[arg-type]
    codes = elastic_launch(config, rank_of_torchrun)(run, scratch)
    os._exit(max(codes.values()))


def rank_of_torchrun(run: dict[str, Any], scratch: Path) -> int:
    """The exit status of this rank."""
    code = exit_code(int(os.environ["RANK"]), run, scratch)
    atexit._run_exitfuncs()
    return code


def start(run: dict[str, Any], scratch: Path) -> int:
    """The first process, which forks the second."""
    first = os.fork()
    if first:
        return first
    if run.get("torchrun"):
        torchrun(run, scratch)
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
    (scratch / "second").write_text(str(os.getpid()))
    train(1, run, scratch)
    return 0


def alive(file: Path) -> bool:
    """Whether the process whose id the file has still runs."""
    try:
        return ") Z " not in Path(f"/proc/{file.read_text()}/stat").read_text()
    except OSError:
        return False


def import_all(file: Path) -> None:
    """Import what a training imported, which later ones then need not."""
    for name in json.loads(file.read_text()) if file.exists() else []:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def outcome(run: dict[str, Any]) -> dict[str, Any]:
    """Run a training; return the exit status of the first process, and the output and samples of each process."""
    scratch = Path(tempfile.mkdtemp())  # no context manager: forks would tidy it up at their end
    _, status = os.waitpid(start(run, scratch), 0)
    ranks = range(run["processes"])
    until = time.monotonic() + 20
    while alive(scratch / "second") and time.monotonic() < until:
        time.sleep(0.05)
    seen = [scratch / f"{rank}.json" for rank in ranks]
    found = {
        "plan": run,
        "orphan": alive(scratch / "second"),
        "code": os.waitstatus_to_exitcode(status),
        "output": [(scratch / f"{rank}.out").read_text() for rank in ranks],
        "errors": [(scratch / f"{rank}.err").read_text() for rank in ranks],
        "seen": [json.loads(file.read_text()) if file.exists() else [] for file in seen],
    }
    import_all(scratch / "0.modules")
    shutil.rmtree(scratch)
    return found


def outcomes(plan: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What became of the trainings of a plan, carried out in a process of its own; `folder` is for its files."""
    given, results = folder / "plan.json", folder / "results.json"
    given.write_text(json.dumps(plan))
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = python(__file__, given, results, env=environment, timeout=600)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[dict[str, Any]] = json.loads(results.read_text())
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
