"""Progress output: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar


def progress_bar(*, epochs_per_line: int = 1, seconds_per_line: float = 30.0) -> ProgressBar:
    """Return `RunBars` if stdout is a terminal, else `ProgressLines` with these arguments."""
    if sys.stdout.isatty():
        return RunBars()
    return ProgressLines(epochs_per_line=epochs_per_line, seconds_per_line=seconds_per_line)


class RunBars(RichProgressBar):
    """A bar for the whole training, with the time left, the best value so far and samples per second, above the epoch's."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._run: Any = None
        self._rate = Throughput()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the bar of the training before that of the first epoch."""
        batches = trainer.num_training_batches
        if self.is_enabled and self.progress is not None and self._run is None and trainer.max_epochs not in (None, -1):
            # An iterable data set may have no length: its bar only pulses.
            known = batches != float("inf")
            self._run = self._add_task(batches * int(trainer.max_epochs or 0), "Training")
            self.progress.update(self._run, completed=trainer.current_epoch * (batches if known else 0))
        self._rate.start()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance both bars."""
        self._rate.count(batch)
        if self._run is not None and self.progress is not None:
            batches = trainer.num_training_batches
            done = (0 if batches == float("inf") else trainer.current_epoch * batches) + batch_idx + 1
            shown = [text for text in ("Training", best_so_far(trainer), str(self._rate)) if text]
            self.progress.update(self._run, completed=done, description=" ".join(shown))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class Throughput:
    """Samples per second of the current epoch."""

    def __init__(self) -> None:
        self.samples, self._started = 0, time.monotonic()

    def start(self) -> None:
        """Begin an epoch."""
        self.samples, self._started = 0, time.monotonic()

    def count(self, batch: Any) -> None:
        """Count a batch; one without a size does not count."""
        size = getattr(batch, "size", 0)
        self.samples += size if isinstance(size, int) else 0

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self.samples / seconds:,.0f} samples/s" if self.samples and seconds > 0 else ""


def best_so_far(trainer: Trainer) -> str:
    """The best value of the metric that chooses the checkpoint, as text; empty before the first."""
    callbacks: Any = getattr(trainer, "checkpoint_callbacks", ())
    for callback in callbacks if isinstance(callbacks, list) else ():
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_score is not None:
            return f"best {callback.monitor} {float(callback.best_model_score):.4f}"
    return ""


class ProgressLines(ProgressBar):
    """Prints a line after an epoch, and further lines during long epochs.

    A line shows the validation metrics, except grouped metrics `val/GROUP/NAME`, which are for tables and curves; then the
    time of the epoch, samples per second and, in long trainings, the time left.

    Args:
        epochs_per_line: epochs between two lines; the last epoch always gets a line.
        seconds_per_line: minimum time between two lines within an epoch.
    """

    def __init__(self, *, epochs_per_line: int = 1, seconds_per_line: float = 30.0) -> None:
        super().__init__()
        if epochs_per_line < 1:
            raise ValueError(f"callbacks.progress.epochs_per_line: expected 1 or more, got {epochs_per_line}.")
        self.epochs_per_line = epochs_per_line
        self.seconds_per_line = seconds_per_line
        self._enabled = True
        self._epoch_started = self._last_line = 0.0
        self._durations: list[float] = []
        self._rate = Throughput()

    def disable(self) -> None:
        """Stop printing; Lightning calls this on all ranks except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_started = self._last_line = time.monotonic()
        self._rate.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if `seconds_per_line` have passed since the last."""
        self._rate.count(batch)
        now = time.monotonic()
        if now - self._last_line >= self.seconds_per_line:
            self._last_line = now
            loss = f"  loss {float(outputs['loss']):.4f}" if isinstance(outputs, dict) and "loss" in outputs else ""
            self._print(trainer, f"  step {batch_idx + 1}/{trainer.num_training_batches}{loss}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics and time, and after several epochs the time left."""
        done, seconds, rate = trainer.current_epoch + 1, time.monotonic() - self._epoch_started, str(self._rate)
        self._durations.append(seconds)
        if done % self.epochs_per_line and done != trainer.max_epochs:
            return
        values = trainer.callback_metrics
        first = ["train/loss", "train/accuracy", "val/loss"]
        others = (name for name in values if name.startswith("val/") and name.count("/") == 1 and name not in first)
        shown = first + sorted(others)
        text = "".join(f"  {name} {float(values[name]):.4f}" for name in shown if name in values)
        rate = f"  {rate}" if rate else ""
        self._print(trainer, f"{text}  {seconds:.1f} s{rate}{self._left(trainer, done)}")

    def _left(self, trainer: Trainer, done: int) -> str:
        """The expected time of the epochs left, by the mean of the last ten; empty if it is short or unknown."""
        if trainer.max_epochs in (None, -1) or len(self._durations) < 2:
            return ""
        recent = self._durations[-10:]
        seconds = (int(trainer.max_epochs or 0) - done) * sum(recent) / len(recent)
        if seconds < 20:
            return ""
        minutes = round(seconds / 60)
        return f"  {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f"  {seconds / 60:.1f} min left"

    def _print(self, trainer: Trainer, text: str) -> None:
        if self._enabled:
            epochs = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
            sys.stdout.write(f"epoch {trainer.current_epoch + 1}{epochs}{text}\n")
            sys.stdout.flush()
