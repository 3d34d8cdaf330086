"""Progress output: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar


def progress_bar(*, epochs_per_line: int = 1, seconds_per_line: float = 30.0) -> ProgressBar:
    """Return Rich's bar if stdout is a terminal, else `ProgressLines` with these arguments."""
    if sys.stdout.isatty():
        return RichProgressBar(leave=False)
    return ProgressLines(epochs_per_line=epochs_per_line, seconds_per_line=seconds_per_line)


class ProgressLines(ProgressBar):
    """Prints a line after an epoch, and further lines during long epochs.

    A line shows the validation metrics, except grouped metrics `val/GROUP/NAME`, which are for tables and curves.

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

    def disable(self) -> None:
        """Stop printing; Lightning calls this on all ranks except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_started = self._last_line = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if `seconds_per_line` have passed since the last."""
        now = time.monotonic()
        if now - self._last_line >= self.seconds_per_line:
            self._last_line = now
            loss = f"  loss {float(outputs['loss']):.4f}" if isinstance(outputs, dict) and "loss" in outputs else ""
            self._print(trainer, f"  step {batch_idx + 1}/{trainer.num_training_batches}{loss}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics and time."""
        done = trainer.current_epoch + 1
        if done % self.epochs_per_line and done != trainer.max_epochs:
            return
        values = trainer.callback_metrics
        first = ["train/loss", "train/accuracy", "val/loss"]
        others = (name for name in values if name.startswith("val/") and name.count("/") == 1 and name not in first)
        shown = first + sorted(others)
        text = "".join(f"  {name} {float(values[name]):.4f}" for name in shown if name in values)
        self._print(trainer, f"{text}  {time.monotonic() - self._epoch_started:.1f} s")

    def _print(self, trainer: Trainer, text: str) -> None:
        if self._enabled:
            epochs = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
            sys.stdout.write(f"epoch {trainer.current_epoch + 1}{epochs}{text}\n")
            sys.stdout.flush()
