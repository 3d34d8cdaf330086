"""Overhead of a training step in `train.py` over a bare PyTorch loop with the same model, data and optimizer.

    python benchmarks/overhead.py [--experiment NAME] [--steps 100] [--repetitions 5] [--set data.root=DIR …]

The code of `train.py` trains an epoch of `--steps` steps with its default callbacks and loggers, but without validation and
figures. A loop of a dozen lines then takes as many steps with the same loader, augmentation, model, loss, optimizer with two
parameter groups, schedule and clipping, without logging. The two alternate. A step's time is measured from the end of the
step before, so it includes loading. Prints the medians over all steps of wall and processor time, and the median over the
repetitions of their ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback, seed_everything

from perceiver.checkpoints.build import build_model
from perceiver.run.assembly.data import make_data
from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.run.job import run
from perceiver.run.main import conf_directory
from perceiver.training.optimizer import parameter_groups

TARGET = 1.05
# The first steps allocate and warm caches.
SKIPPED = 5


class Clock(Callback):
    """Callback that records the time after every step, the only addition to `train.py`."""

    marks: list[tuple[float, float]]

    def __init__(self) -> None:
        Clock.marks = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Record the time."""
        Clock.marks.append((time.perf_counter(), time.process_time()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    register_resolvers()
    overrides = [
        *([] if options.experiment is None else [f"experiment={options.experiment}"]),
        "test=false",
        "trainer.max_epochs=1",
        f"trainer.limit_train_batches={options.steps}",
        "trainer.limit_val_batches=0",
        "callbacks.figures=null",
        "+callbacks.clock._target_=overhead.Clock",
        *options.set,
    ]
    times: dict[str, list[list[tuple[float, float]]]] = {"train.py": [], "bare loop": []}
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        for repetition in range(options.repetitions):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                run(compose("train", overrides=[*overrides, f"run_dir={folder}"]))
            times["train.py"].append(_steps(Clock.marks))
            config = compose("train", overrides=[*overrides, "run_dir=nowhere", f"seed={repetition}"])
            times["bare loop"].append(_steps(bare_loop(config, steps=options.steps)))
    name = options.experiment or "digits (the default)"
    print(f"{name}: {options.repetitions} x {options.steps} steps each, {options.threads} threads, {os.cpu_count()} cores")
    print(f"{'':12}{'wall, ms':>12}{'processor, ms':>16}")
    for side, runs in times.items():
        medians = [1000 * statistics.median(step[kind] for steps in runs for step in steps) for kind in (0, 1)]
        print(f"{side:12}{medians[0]:12.2f}{medians[1]:16.2f}")
    for kind, what in enumerate(("wall", "processor")):
        ratios = [
            statistics.median(step[kind] for step in ours) / statistics.median(step[kind] for step in bare)
            for ours, bare in zip(times["train.py"], times["bare loop"], strict=True)
        ]
        verdict = "" if statistics.median(ratios) <= TARGET else f"  above {TARGET}"
        print(f"{what} time: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}){verdict}")


def bare_loop(config: Any, *, steps: int) -> list[tuple[float, float]]:
    """Return the times after each step of a loop without Lightning."""
    data = make_data(config.data)
    data.prepare_data()
    data.setup("fit")
    plain = resolve(config, data.spec)
    seed_everything(int(plain["seed"]), verbose=False)
    model = build_model(plain["model"], spec=data.spec).train()
    optimizer = instantiate(plain["optimizer"], _convert_="all")(parameter_groups(model))
    scheduler = instantiate(plain["scheduler"], _convert_="all")(optimizer, steps) if plain.get("scheduler") else None
    smoothing, clip = plain["task"].get("label_smoothing", 0.0), plain["trainer"]["gradient_clip_val"]
    marks = []
    for number, batch in enumerate(data.train_dataloader(), start=1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch.inputs, batch.masks), batch.target, label_smoothing=smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        marks.append((time.perf_counter(), time.process_time()))
        if number == steps:
            break
    return marks


def _steps(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return wall and processor seconds of each step but the first few."""
    return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks[SKIPPED:], marks[SKIPPED + 1 :], strict=False)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", help="default: the small model on digits")
    parser.add_argument("--steps", type=int, default=100, help="steps per epoch; at most as many as the data has")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings for both")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    import sys

    # Hydra finds the clock by the name of this file.
    sys.modules["overhead"] = sys.modules["__main__"]
    main()
