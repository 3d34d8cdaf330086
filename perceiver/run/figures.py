"""Figures of a run: confusion matrices, as PNG in the run directory and in TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from perceiver.run.atomic import atomic_write
from perceiver.run.metrics import BestEpoch, confusion_of

# Beyond so many classes names and numbers would be unreadable.
_MOST_LABELS = 30


class ConfusionFigures(Callback):
    """Draws the validation confusion matrix of the best epoch after training, and that of the test after testing.

    Args:
        directory: the run directory; figures go to `figures/confusion_val.png` and `figures/confusion_test.png`.
        names: class names, in the order of the class numbers.
        best: what remembers the best epoch; None where nothing is trained.
    """

    def __init__(self, *, directory: Path, names: Sequence[str], best: BestEpoch | None) -> None:
        self.directory = directory
        self.names = list(names)
        self.best = best

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the best epoch's matrix; its epoch is the step in TensorBoard."""
        if self.best is not None and self.best.confusion is not None and trainer.is_global_zero:
            self._publish(trainer, self.best.confusion, "val", self.best.epoch or 0)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test's matrix."""
        confusion = confusion_of(pl_module, "test")
        if confusion is not None and trainer.is_global_zero:
            self._publish(trainer, confusion, "test", trainer.current_epoch)

    def _publish(self, trainer: Trainer, confusion: torch.Tensor, stage: str, step: int) -> None:
        figure = confusion_figure(confusion, self.names, title=f"{stage}: predicted against true class")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        with atomic_write(self.directory / "figures" / f"confusion_{stage}.png") as file:
            file.write(buffer.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"{stage}/confusion", figure, global_step=step, close=True)


def confusion_figure(confusion: torch.Tensor, names: Sequence[str], *, title: str) -> Figure:
    """A confusion matrix `(classes, classes)`, rows the true classes, coloured by the share of each row.

    The figure belongs to no pyplot window, so there is nothing to close.
    """
    count = confusion.shape[0]
    side = min(2.5 + 0.45 * count, 14.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if count <= _MOST_LABELS:
        labels = list(names) if len(names) == count else [str(number) for number in range(count)]
        rotation = 90 if max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(count), labels, rotation=rotation)
        axes.set_yticks(range(count), labels)
        for row, column in confusion.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(confusion[row, column])), ha="center", va="center", color=colour, fontsize=8)
    return figure
