"""The checkpoint that a run is resumed from: when it is written, and that a complete one is there at any moment."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from perceiver.run.resuming.resumable_points import AtResumablePoints
from perceiver.runtime.files import replace_keeping

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class LastCheckpoint(AtResumablePoints):
    """Writes `last.ckpt` after every so many epochs and, if asked to, steps; what was there before becomes `previous.ckpt`.

    Logs are flushed along with it, so that they reach as far as the checkpoint does.

    Args:
        directory: where to; missing folders are made.
        every_n_epochs: epochs from one to the next; null: none for the sake of epochs.
        every_n_train_steps: steps of the optimizer from one to the next, wherever in an epoch they end; null: none.

    Raises:
        ValueError: for numbers below 1.
    """

    def __init__(
        self, *, directory: str | Path, every_n_epochs: int | None = 1, every_n_train_steps: int | None = None
    ) -> None:
        super().__init__()
        for name, number in {"every_n_epochs": every_n_epochs, "every_n_train_steps": every_n_train_steps}.items():
            if number is not None and number < 1:
                raise ValueError(f"callbacks.last.{name}: expected 1 or more, or null for none, got {number}.")
        self.directory = Path(directory)
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self._saved_step = 0

    @property
    def path(self) -> Path:
        """Where the checkpoint is, once there is one."""
        return self.directory / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where the training is."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step

    def at_resumable_point(self, trainer: Trainer, *, epoch_ended: bool) -> None:
        """Write, if it is time to."""
        epochs, steps = self.every_n_epochs, self.every_n_train_steps
        of_epoch = epoch_ended and epochs is not None and (trainer.current_epoch + 1) % epochs == 0
        of_step = steps is not None and trainer.global_step // steps > self._saved_step // steps
        if of_epoch or of_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write, unless this very step is written. To be called in all processes, at a resumable point.

        Raises:
            DiskFullError: if the disk is full; what was there is intact.
        """
        if trainer.global_step == self._saved_step:
            return
        # The same name in all processes: the strategy may make a folder that all of them write into.
        new = self.directory / f".{LAST}.new.tmp"
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            replace_keeping(new, self.path, previous=self.directory / PREVIOUS)
        trainer.strategy.barrier("last checkpoint")
        self._saved_step = trainer.global_step
