"""mode=batch_size: the batch sizes that fit into memory, and the size from which larger batches are no faster."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from omegaconf import DictConfig
from rich.table import Table

from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.spec import spec_of
from perceiver.run.assembly.task import make_task
from perceiver.run.assembly.trainer import make_trainer
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.construct import construct
from perceiver.run.configuration.resolve import resolve
from perceiver.run.fine_tuning.backbones import Backbones
from perceiver.run.fine_tuning.initialisation import Untrained
from perceiver.run.presets.apply import with_preset
from perceiver.run.reporting.console import console, print_line
from perceiver.runtime.files import write_json
from perceiver.samples.batch import Batch

FILE = "batch_sizes.json"
WARM_UP = 2
"""Steps of a trial that are not timed: they allocate memory and fill the loaders."""
AS_FAST = 0.95
"""Share of the highest throughput that counts as equally fast."""
MARGIN = 0.8
"""Maximum share of the free main memory that the next batch may be expected to take. The kernel kills a process that asks
for more, without an error that could be caught."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A batch size that fitted.

    Args:
        batch_size: samples per device.
        samples_per_second: throughput, including loading.
        memory_gb: peak memory so far of the device, or of this process on a CPU.
    """

    batch_size: int
    samples_per_second: float
    memory_gb: float


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Trains a few steps at 1, 2, 4, … times `smallest` samples per batch, on one device, and prints the sizes that fit.

    Everything else is as in a training: precision, augmentation, optimizer, `compile`, checkpointed activations. The
    trials end when memory is exhausted, at `largest`, or with a batch of all training samples. Only the table is kept, in
    `batch_sizes.json` of the run directory.

    Args:
        start: the weights that training would start from.
        smallest: samples per batch of the first trial.
        largest: samples per batch of the last trial.
        steps: training steps of each trial.

    Raises:
        ValueError: `smallest` exceeds `largest`, or `steps` is too small.
    """

    start: Untrained
    smallest: int
    largest: int
    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest or self.steps <= WARM_UP:
            raise ValueError(
                f"batch_sizes: expected 1 <= smallest <= largest and steps > {WARM_UP}, got smallest={self.smallest}, "
                f"largest={self.largest}, steps={self.steps}."
            )

    def run(self, config: DictConfig) -> int:
        """Try the sizes and return the largest batch that fitted.

        Raises:
            ValueError: the data has no `batch_size`.
            RuntimeError: not even the smallest batch fits.
        """
        config = self.start.configured(config)
        data = make_data(config.data)
        if not hasattr(data, "batch_size"):
            raise ValueError(f"mode=batch_size: {type(data).__name__} has no batch_size to change.")
        backbones = Backbones.of(config.model.get("adapters"))
        data.prepare_data()
        backbones.prescribe(data)
        data.setup("fit")
        spec = spec_of(data)
        config = with_preset(config, data, spec, requested=backbones.requests)
        plain = resolve(backbones.described(config, spec), spec)
        seed_everything(int(plain["seed"]), workers=True, verbose=False)
        model = self.start.build(plain["model"], spec)
        compile_model(model, plain.get("compile"))
        task = make_task(plain, model, spec, optimizer=self.start.optimizer(construct(plain["optimizer"]), model))

        samples = _num_samples(data)
        trials: list[Trial] = []
        size, end = self.smallest, ""
        while not end:
            trial = _try(size, task, data, plain, steps=self.steps)
            if trial is None:
                end = f"{size} samples do not fit into memory."
                break
            trials.append(trial)
            if size == self.largest:
                end = "Larger sizes were not tried: limit batch_sizes.largest."
            elif samples is not None and size >= samples:
                end = "Larger sizes were not tried: this is the whole training split."
            elif _too_large(trials, on_cpu=next(model.parameters()).device.type == "cpu"):
                end = f"{2 * size} samples were not tried: they would probably exceed the free main memory."
            size = min(2 * size, self.largest, samples or 2 * size)
        if not trials:
            raise RuntimeError(f"mode=batch_size: {end} Set batch_sizes.smallest lower, or make the model smaller.")
        _print(trials, end)
        write_json(Path(config.run_dir) / FILE, {"trials": [asdict(trial) for trial in trials], "end": end})
        return trials[-1].batch_size


class _Clock(Callback):
    """Records the time after every step, once the device has finished it."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.samples: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Record the time and the number of samples of a step."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        self.marks.append(time.perf_counter())
        self.samples.append(batch.size)

    def samples_per_second(self) -> float:
        """Return the throughput after the warm-up; the last batch of an epoch may be smaller than the others."""
        return sum(self.samples[WARM_UP:]) / (self.marks[-1] - self.marks[WARM_UP - 1])


def _try(
    size: int, task: LightningModule, data: LightningDataModule, plain: Mapping[str, Any], *, steps: int
) -> Trial | None:
    """Train a few steps with batches of this size; None if memory does not suffice."""
    data.batch_size = size  # type: ignore[attr-defined]
    clock = _Clock()
    settings = {
        **plain["trainer"],
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "max_epochs": -1,
        "max_steps": steps,
        "accumulate_grad_batches": 1,
        "limit_train_batches": 1.0,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "overfit_batches": 0.0,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    settings.pop("max_time", None)
    trainer = make_trainer({**plain, "trainer": settings, "callbacks": None, "logger": None}, [clock])
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer.fit(task, datamodule=data)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_oom_error(error):
            raise
        return None
    finally:
        task.zero_grad(set_to_none=True)
        gc.collect()
        garbage_collection_cuda()
    return Trial(batch_size=size, samples_per_second=clock.samples_per_second(), memory_gb=_peak_memory(device) / 2**30)


def _peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of a CUDA device since its last reset, otherwise of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _too_large(trials: list[Trial], *, on_cpu: bool) -> bool:
    """Whether twice the last batch is expected to need more main memory than is free."""
    free = _free_memory()
    if not on_cpu or free is None or len(trials) < 2:
        return False
    before, last = (trial.memory_gb for trial in trials[-2:])
    return 2 * (last - before) * 2**30 > MARGIN * free


def _free_memory() -> int | None:
    """Return the bytes of main memory still available to this process, on the machine or in its container (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def _num_samples(data: LightningDataModule) -> int | None:
    """Return the number of training samples; None if unknown."""
    try:
        return len(data.train_dataloader().dataset)
    except (AttributeError, TypeError):
        return None


def _print(trials: list[Trial], end: str) -> None:
    table = Table(title="Batch sizes, samples per device", title_justify="left")
    for name in ("data.batch_size", "samples per second", "memory, GB"):
        table.add_column(name, justify="right")
    for trial in trials:
        table.add_row(str(trial.batch_size), f"{trial.samples_per_second:,.0f}", f"{trial.memory_gb:.2f}")
    console().print(table)
    best = max(trial.samples_per_second for trial in trials)
    enough = next(trial.batch_size for trial in trials if trial.samples_per_second >= AS_FAST * best)
    print_line(f"Largest batch that fits: {trials[-1].batch_size}. {end}")
    print_line(f"From {enough} samples on, larger batches are hardly faster.")
