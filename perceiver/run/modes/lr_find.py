"""mode=lr_find: a learning rate range test on the configured training."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig
from rich.progress import Progress
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from perceiver.plots.rendering import png_of
from perceiver.plots.training.range_test import range_test
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
from perceiver.runtime.files import atomic_write
from perceiver.training.optimizer import rated

TABLE, FIGURE = "lr_find.csv", "lr_find.png"
SMOOTHING = 0.98
"""Share of the mean of the losses before in the smoothed loss."""
SKIPPED = 10
"""Steps at the beginning whose losses do not count: the smoothed loss still depends on single batches."""
FEWEST = 2 * SKIPPED
DIVERGED = 4.0
"""Multiple of the lowest loss at which the test ends."""


@dataclass(frozen=True, kw_only=True)
class LearningRateFinder:
    """Trains with a learning rate that rises exponentially from step to step, and suggests one (Smith 2017, section 3.3).

    The suggestion is the rate at which the smoothed training loss falls fastest on a logarithmic scale. Parts that train at
    a multiple of `optimizer.lr` keep it, and frozen parts stay frozen. Only training samples are used, on one device, and
    no checkpoint is kept. `lr_find.csv` and `lr_find.png` hold the curve.

    Args:
        start: the weights that training would start from.
        smallest, largest: the first and the last learning rate.
        steps: training steps.

    Raises:
        ValueError: the rates are not positive and ascending, or there are too few steps.
    """

    start: Untrained
    smallest: float
    largest: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest < math.inf:
            raise ValueError(
                f"lr_find: expected 0 < smallest < largest, got smallest={self.smallest}, largest={self.largest}."
            )
        if self.steps < FEWEST:
            raise ValueError(f"lr_find.steps: expected {FEWEST} or more, got {self.steps}.")

    def run(self, config: DictConfig) -> float:
        """Run the test and return the suggested learning rate.

        Raises:
            ValueError: the training diverged before `FEWEST` steps, or the loss does not fall at any rate.
        """
        config = self.start.configured(config)
        backbones = Backbones.of(config.model.get("adapters"))
        data = make_data(config.data)
        data.prepare_data()
        backbones.prescribe(data)
        data.setup("fit")
        spec = spec_of(data)
        config = with_preset(config, data, spec, requested=backbones.requests)
        plain = resolve(backbones.described(config, spec), spec)
        seed_everything(int(plain["seed"]), workers=True, verbose=False)
        model = self.start.build(plain["model"], spec)
        if self.start.is_random:
            backbones.fill(model, spec)
        compile_model(model, plain.get("compile"))
        optimizer = self.start.optimizer(rated(construct(plain["optimizer"])), model)
        task = make_task(plain, model, spec, optimizer=optimizer, schedule=self._rising)
        rates, losses = self._measured(task, data, plain)

        chosen = suggestion(rates, losses)
        directory = Path(config.run_dir)
        _write(directory, rates, losses, chosen)
        print_line(
            f"Loss {losses[0]:.3g} at {rates[0]:.2g}, lowest {min(losses):.3g} at {rates[int(np.argmin(losses))]:.2g}, "
            f"{losses[-1]:.3g} at {rates[-1]:.2g} ({len(rates)} steps)"
        )
        print_line(f"Suggested learning rate: optimizer.lr={rates[chosen]:.2g}")
        print_line(f"Run directory {directory}: {TABLE}, {FIGURE}")
        return float(f"{rates[chosen]:.2g}")

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        growth = math.log(self.largest / self.smallest) / (self.steps - 1)
        return self.smallest * math.exp(growth * step)

    def _rising(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """Return the schedule, in which every group keeps its multiple of the optimizer's rate."""
        own = float(optimizer.defaults["lr"])
        if not own > 0:
            raise ValueError(f"optimizer.lr: expected a number above 0, got {own:g}.")
        return LambdaLR(optimizer, lambda step: self._rate(step) / own)

    def _measured(
        self, task: LightningModule, data: LightningDataModule, plain: Mapping[str, Any]
    ) -> tuple[list[float], list[float]]:
        """Return the learning rates, and the smoothed loss of each."""
        settings = {
            **plain["trainer"],
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            "max_epochs": -1,
            "max_steps": self.steps,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "overfit_batches": 0.0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
        }
        settings.pop("max_time", None)
        plain = {**plain, "trainer": settings, "callbacks": None, "logger": None}
        out = console()
        try:
            with Progress(console=out, transient=True, disable=not out.is_terminal) as shown:
                bar = shown.add_task("Learning rates", total=self.steps)
                losses = SmoothedLosses(advance=lambda: shown.advance(bar))
                make_trainer(plain, [losses, *self.start.callbacks()]).fit(task, datamodule=data)
        except FloatingPointError as error:
            raise ValueError(f"lr_find.largest: expected a rate at which the loss stays finite: {error}") from error
        pairs = zip(map(self._rate, range(self.steps)), losses.values, strict=False)
        kept = [(rate, loss) for rate, loss in pairs if math.isfinite(loss)]
        if len(kept) < FEWEST:
            raise ValueError(
                f"lr_find.smallest: expected a rate at which training does not diverge, but the loss was {DIVERGED:g} times "
                f"its lowest value after {len(kept)} of {self.steps} steps. Set lr_find.smallest lower (now "
                f"{self.smallest:g})."
            )
        return [rate for rate, _ in kept], [loss for _, loss in kept]


class SmoothedLosses(Callback):
    """Keeps the smoothed loss of every step, and ends a training that diverges.

    Args:
        advance: called after every step, to show progress.

    Attributes:
        values: the exponentially smoothed loss of each step; the loss of a step is the mean over its batches.
    """

    def __init__(self, *, advance: Callable[[], None]) -> None:
        self._advance = advance
        self.values: list[float] = []
        self._mean = 0.0
        self._batches: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a batch, and that of the step if the batch completes it."""
        # Lightning has divided it by the batches of a step.
        self._batches.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == len(self.values):
            return
        loss = sum(self._batches) / len(self._batches)
        self._batches.clear()
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        self.values.append(self._mean / (1 - SMOOTHING ** (len(self.values) + 1)))
        self._advance()
        if self.values[-1] > DIVERGED * min(self.values):
            trainer.should_stop = True


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> int:
    """Return the position of the rate at which the loss falls fastest over the logarithm of the rate.

    >>> rates = [10 ** (step / 10 - 5) for step in range(40)]
    >>> losses = [2.0] * 20 + [2 - step / 10 for step in range(10)] + [1.1 + step for step in range(10)]
    >>> 20 <= suggestion(rates, losses) < 30
    True

    Args:
        rates: learning rates, ascending.
        losses: smoothed loss of each; the first `SKIPPED` do not count, nor those after the lowest.

    Raises:
        ValueError: the loss does not fall.
    """
    lowest = SKIPPED + int(np.argmin(losses[SKIPPED:]))
    considered = slice(SKIPPED, lowest + 1)
    if lowest - SKIPPED < 2:
        raise ValueError(
            f"mode=lr_find: the loss does not fall at any rate from {rates[0]:.2g} to {rates[-1]:.2g}. Set lr_find.smallest "
            "lower, or check with debug=overfit that the model can learn."
        )
    slope = np.gradient(np.asarray(losses[considered]), np.log(rates[considered]))
    return SKIPPED + int(np.argmin(slope))


def _write(directory: Path, rates: Sequence[float], losses: Sequence[float], chosen: int) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learning_rate", "loss"])
    writer.writerows(zip(rates, losses, strict=True))
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / TABLE) as file:
        file.write(text.getvalue().encode())
    with atomic_write(directory / FIGURE) as file:
        file.write(png_of(range_test(rates, losses, suggested=chosen)))
