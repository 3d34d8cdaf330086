"""Kill a training at random moments with SIGKILL, resume it every time, and compare it with an uninterrupted training.

    python benchmarks/kills.py
    python benchmarks/kills.py --processes 2
    python benchmarks/kills.py data=av_digits model/size=tiny --num-workers 2

Prints the position of every kill and of the checkpoint found when resuming, and whether the final weights, optimizer,
metrics and table equal those of the uninterrupted run, bit by bit. Exits with 1 if they do not, if a run could not be
resumed, or if a process outlived its job. With two processes, all, the first or the second are killed in turn; the others
must end by themselves. The arguments are overrides of train.py.

Modules are imported only once: each training is a fork of this process, so that it spends most of its time training.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from perceiver.run.main import main as train

BEFORE_FORKING = (
    "perceiver.run.job", "perceiver.run.modes.fit", "perceiver.run.assembly.task", "perceiver.data.datasets.digits",
    "perceiver.objectives", "perceiver.plots", "torchvision.transforms.v2", "lightning.pytorch.loggers",
)  # fmt: skip
REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = (
    "data=digits", "model.encoder.num_latents=4", "model.encoder.latent_channels=16", "model.encoder.num_self_heads=2",
    "model.encoder.dropout=0.1", "data.batch_size=128",
)  # fmt: skip
COMMON = (
    "trainer.accelerator=cpu", "trainer.devices=1", "logger=csv", "callbacks.samples=null", "callbacks.attention=null",
    "callbacks.attention_by_modality=null", "callbacks.attention_modalities=null",
)  # fmt: skip


def start(arguments: list[str], log: Path) -> int:
    """Start a training in a new process group and return its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [str(REPOSITORY / "train.py"), *arguments]
    code = 1
    try:
        train()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def finished(child: int, *, wait: bool = False) -> int | None:
    """Return the exit status of a child; None while it runs."""
    done, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def place(directory: Path) -> str:
    """Describe the epoch and step of a run's last checkpoint."""
    file = directory / "checkpoints" / "last.ckpt"
    if not file.exists():
        return "no checkpoint"
    state = torch.load(file, weights_only=True, mmap=True)
    return f"epoch {state['epoch'] + 1}, step {state['global_step']}"


def kill(child: int, victim: str) -> str:
    """Kill all processes of a training, or its first or second, wait until all have ended, and return the actual victim.

    Raises:
        RuntimeError: if a process is still running after a minute.
    """
    second = Path(f"/proc/{child}/task/{child}/children").read_text().split()
    if victim == "all" or not second:
        victim = "all"
        os.killpg(child, signal.SIGKILL)
    else:
        os.kill(child if victim == "first" else int(second[0]), signal.SIGKILL)
    until = time.monotonic() + 60
    ended = None
    while time.monotonic() < until:
        ended = finished(child) if ended is None else ended
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            return victim
        time.sleep(0.05)
    raise RuntimeError(f"a process of job {child} is still running a minute after the kill ({victim})")


def kill_at_a_random_moment(child: int, directory: Path, chance: random.Random, victim: str) -> int | str:
    """Kill after one to three more checkpoints and a delay; return the victim, or the exit status if it ended before."""
    file = directory / "checkpoints" / "last.ckpt"
    seen = file.stat().st_mtime_ns if file.exists() else 0
    written, began, interval = 0, time.monotonic(), 0.2
    wanted = chance.randint(1, 3)
    while written < wanted:
        if (code := finished(child)) is not None:
            return code
        now = file.stat().st_mtime_ns if file.exists() else 0
        if now != seen:
            seen, written = now, written + 1
            interval, began = time.monotonic() - began, time.monotonic()
        time.sleep(0.001)
    time.sleep(chance.uniform(0.0, min(interval, 1.0)))
    if (code := finished(child)) is not None:
        return code
    return kill(child, victim)


def differences(one: Any, other: Any, name: str) -> list[str]:
    """Return the names of values that are not equal, bit by bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [f"{name}.{key}" for key in one.keys() ^ other.keys()]
        pairs = {f"{name}.{key}": (one[key], other[key]) for key in one.keys() & other.keys()}
        return missing + [found for key, (mine, theirs) in pairs.items() for found in differences(mine, theirs, key)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        numbered = enumerate(zip(one, other, strict=True))
        return [found for number, pair in numbered for found in differences(*pair, f"{name}.{number}")]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    return [] if one == other else [name]


def compare(reference: Path, killed: Path) -> list[str]:
    """Return the differences of two runs: weights, optimizer, schedule and step of both checkpoints, metrics, table."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (reference, killed))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            found += differences(one[key], other[key], f"{name} {key}")
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (reference, killed)]
    for values in metrics:
        values.pop("seconds")
    found += differences(metrics[0], metrics[1], "metrics.json")
    tables = [(run / "csv" / "metrics.csv").read_text().splitlines() for run in (reference, killed)]
    if tables[0] != tables[1]:
        found.append("metrics.csv")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of train.py")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--directory", type=Path, default=None)
    settings = parser.parse_args()
    for name in BEFORE_FORKING:
        importlib.import_module(name)
    torch.set_num_threads(1)
    folder = settings.directory or Path(tempfile.mkdtemp(prefix="kills_"))
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*COMMON, *(settings.overrides or DIGITS)]
    if not any(argument.startswith("trainer.max_epochs") for argument in arguments):
        arguments.append(f"trainer.max_epochs={settings.epochs}")
    arguments += [f"data.num_workers={settings.num_workers}", f"callbacks.last.every_n_train_steps={settings.every}"]
    if settings.processes > 1:
        arguments += ["trainer=ddp", f"trainer.devices={settings.processes}"]

    reference, killed = folder / "uninterrupted", folder / "killed"
    began = time.monotonic()
    code = finished(start([*arguments, f"hydra.run.dir={reference}"], folder / "uninterrupted.log"), wait=True)
    if code != 0:
        print((folder / "uninterrupted.log").read_text())
        return 1
    print(f"uninterrupted: {time.monotonic() - began:.1f} s, {place(reference)}", flush=True)

    chance = random.Random(settings.seed)
    resume = [*arguments, f"hydra.run.dir={killed}", "ckpt_path=auto"]
    log = folder / "killed.log"
    kills = 0
    victims = ("all",) if settings.processes == 1 else ("all", "first", "second")
    while True:
        child = start(resume, log)
        ended: int | str | None
        if kills < settings.kills:
            ended = kill_at_a_random_moment(child, killed, chance, victims[kills % len(victims)])
        else:
            ended = finished(child, wait=True)
        if isinstance(ended, str):
            kills += 1
            left = sorted(path.name for path in (killed / "checkpoints").iterdir())
            print(f"kill {kills} ({ended}): last checkpoint at {place(killed)}; {', '.join(left)}", flush=True)
        elif ended == 0:
            break
        else:
            print(f"a resumed run failed with exit status {ended}:\n{log.read_text()[-2000:]}")
            return 1
    found = compare(reference, killed)
    print(f"{kills} kills, finished at {place(killed)}; differences: {', '.join(found) or 'none'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
