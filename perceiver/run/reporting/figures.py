"""When a run draws figures and where it writes them: PNG files and TensorBoard. `perceiver.plots` defines their content."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor, nn

from perceiver.checkpoints.compare import without_prefix
from perceiver.model import Perceiver
from perceiver.plots.rendering import literal_texts, png_of
from perceiver.plots.supervised.confusion import confusion_figure
from perceiver.run.reporting.loggers import log_figure
from perceiver.run.reporting.metrics import BestEpoch, best_checkpoint
from perceiver.run.reporting.whole_model import whole_model
from perceiver.runtime.files import atomic_write
from perceiver.runtime.progress import progress
from perceiver.samples.batch import Batch
from perceiver.training import Task

Draw = Callable[[Perceiver, Iterable[Batch]], Mapping[str, Figure | str]]
"""Maps a model and batches of evaluation data to figures or plain texts by name, like `perceiver.plots.SampleGrid`."""


class ConfusionFigures(Callback):
    """Draws the validation confusion matrix of the best epoch after training, and the test confusion matrix after testing.

    Args:
        directory: the run directory; figures go to `figures/confusion_val.png` and `figures/confusion_test.png`.
        names: class names, in the order of the class numbers.
        best: the callback that records the best epoch; None without training.
    """

    def __init__(self, *, directory: Path, names: Sequence[str], best: BestEpoch | None) -> None:
        self.directory = directory
        self.names = list(names)
        self.best = best

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the best epoch's matrix; its epoch is the step in TensorBoard."""
        if self.best is not None and trainer.is_global_zero:
            self._publish(trainer, self.best.confusion, "val", self.best.epoch or 0)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of the test split."""
        confusion = pl_module.confusion("test") if isinstance(pl_module, Task) else None
        if trainer.is_global_zero:
            self._publish(trainer, confusion, "test", trainer.current_epoch)

    def _publish(self, trainer: Trainer, confusion: Tensor | None, stage: str, step: int) -> None:
        if confusion is not None:
            with _drawing("confusion"):
                figure = confusion_figure(confusion, self.names, title=f"{stage}: predicted and true classes")
                picture = png_of(figure)
                _write(picture, self.directory / "figures" / f"confusion_{stage}.png")
                log_figure(trainer, picture, f"{stage}/confusion", step)


class Figures(Callback):
    """Draws figures of the best checkpoint on the validation data, after training.

    A run that only tests draws the test data. Figures go to `figures/<name>_val.png` or `figures/<name>_test.png` in the
    run directory and to TensorBoard. Nothing is drawn without validation, or if parameters are sharded over processes.
    Errors while drawing are only warnings, so that they cannot end a training.

    Args:
        directory: the run directory.
        draw: functions that make the figures, by any name (None: no figure). Each is called in the first process only,
            with a `perceiver.Perceiver` and the batches of the data loader, and reads as many batches as it needs.
        every_n_epochs: also draw for TensorBoard after every this many validated epochs; None: never.
        epoch_files: write these figures to files, too: `figures/<name>_val_epoch_<number>.png`, from 1.
    """

    def __init__(
        self,
        *,
        directory: str | Path,
        draw: Draw | Mapping[str, Draw | None],
        every_n_epochs: int | None = None,
        epoch_files: bool = False,
    ) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"Figures.every_n_epochs: expected 1 or more, or null, got {every_n_epochs}.")
        self.directory = Path(directory)
        # A single function is accepted, as in version 0.1.
        self.draw = [one for one in (draw.values() if isinstance(draw, Mapping) else [draw]) if one is not None]
        self.every_n_epochs = every_n_epochs
        self.epoch_files = epoch_files
        self._trained = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw for TensorBoard in every `every_n_epochs`-th epoch."""
        if trainer.sanity_checking or self.every_n_epochs is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            suffix = f"val_epoch_{trainer.current_epoch + 1:04d}" if self.epoch_files else None
            self._publish(trainer, pl_module, trainer.val_dataloaders, "val", suffix=suffix)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw with the weights of the best checkpoint, or with the last weights without a checkpoint."""
        self._trained = True
        model = whole_model(trainer, pl_module)
        if trainer.is_global_zero and model is not None and self.draw:
            with _weights_of(best_checkpoint(trainer), model):
                self._publish(trainer, pl_module, trainer.val_dataloaders, "val", suffix="val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test data, except after a training, which has already drawn the validation data."""
        if not self._trained:
            self._publish(trainer, pl_module, trainer.test_dataloaders, "test", suffix="test")

    def _publish(self, trainer: Trainer, task: LightningModule, loader: Any, stage: str, *, suffix: str | None) -> None:
        """Draw the figures for the loggers and, with a suffix of their names, into files."""
        model = whole_model(trainer, task)
        if loader is None or not trainer.is_global_zero or model is None:
            return
        first = loader[0] if isinstance(loader, list | tuple) else loader
        for draw in progress(self.draw, total=len(self.draw), title="figures", after_seconds=20.0):
            # Loaders draw seeds, but drawing figures must not change the training.
            with torch.random.fork_rng(devices=[]), _drawing(getattr(draw, "__name__", type(draw).__name__)):
                for name, figure in draw(model, first).items():
                    drawn = figure if isinstance(figure, str) else png_of(figure)
                    if suffix is not None:
                        ending = "txt" if isinstance(drawn, str) else "png"
                        _write(drawn, self.directory / "figures" / f"{name}_{suffix}.{ending}")
                    log_figure(trainer, drawn, f"{stage}/{name}", trainer.current_epoch)


@contextmanager
def _drawing(name: str) -> Iterator[None]:
    """Context in which text is drawn literally, without mathematics between dollar signs, and errors become warnings."""
    with literal_texts():
        try:
            yield
        except Exception as error:
            warnings.warn(f"figures: {name} failed and is left out: {type(error).__name__}: {error}")


@contextmanager
def _weights_of(file: Path | None, model: nn.Module) -> Iterator[None]:
    """Context in which the model has the weights of a checkpoint; its own weights are restored afterwards."""
    if file is None:
        yield
        return
    own = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(without_prefix(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["state_dict"]))
    try:
        yield
    finally:
        model.load_state_dict(own)


def _write(drawn: bytes | str, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(drawn.encode() if isinstance(drawn, str) else drawn)
