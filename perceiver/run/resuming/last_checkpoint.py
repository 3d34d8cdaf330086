"""The checkpoint for resuming a run: when it is written, and how a complete checkpoint exists at all times."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from perceiver.run.resuming.resumable_points import AtResumablePoints
from perceiver.runtime.files import replace_keeping

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class LastCheckpoint(AtResumablePoints):
    """Writes `last.ckpt` at intervals of epochs and optionally of steps; the earlier file becomes `previous.ckpt`.

    Logs are flushed at the same time, so that they reach as far as the checkpoint.

    Args:
        directory: target directory; missing folders are created.
        every_n_epochs: epochs between two checkpoints; None: no checkpoints by epochs.
        every_n_train_steps: optimizer steps between two checkpoints, also within an epoch; None: no checkpoints by steps.

    Raises:
        ValueError: an interval is below 1.
    """

    def __init__(
        self, *, directory: str | Path, every_n_epochs: int | None = 1, every_n_train_steps: int | None = None
    ) -> None:
        super().__init__()
        for name, number in {"every_n_epochs": every_n_epochs, "every_n_train_steps": every_n_train_steps}.items():
            if number is not None and number < 1:
                raise ValueError(f"callbacks.last.{name}: expected 1 or more, or null to disable it, got {number}.")
        self.directory = Path(directory)
        self.every_n_epochs = every_n_epochs
        self.every_n_train_steps = every_n_train_steps
        self._saved_step = 0

    @property
    def path(self) -> Path:
        """Path of the checkpoint, whether or not it exists."""
        return self.directory / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the current step."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step

    def at_resumable_point(self, trainer: Trainer, *, epoch_ended: bool) -> None:
        """Write a checkpoint if it is due."""
        epochs, steps = self.every_n_epochs, self.every_n_train_steps
        of_epoch = epoch_ended and epochs is not None and (trainer.current_epoch + 1) % epochs == 0
        of_step = steps is not None and trainer.global_step // steps > self._saved_step // steps
        if of_epoch or of_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint unless this step has one. Must be called in all processes, at a resumable point.

        Raises:
            DiskFullError: the disk is full; earlier files are intact.
        """
        if trainer.global_step == self._saved_step:
            return
        # The same name in all processes, since the strategy may make a folder that all processes write to.
        new = self.directory / f".{LAST}.new.tmp"
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            replace_keeping(new, self.path, previous=self.directory / PREVIOUS)
        trainer.strategy.barrier("last checkpoint")
        self._saved_step = trainer.global_step
