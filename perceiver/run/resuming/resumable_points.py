"""The moments of a training at which a checkpoint resumes as if the training had never stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn


class AtResumablePoints(Checkpoint, ABC):
    """Acts after a step of the optimizer, once everything that belongs to that step is done.

    That includes a validation after the step, and the end of an epoch: Lightning would skip both when resuming from a
    checkpoint written just before. Between optimizer steps there are accumulated gradients, which no checkpoint holds.

    It is a `Checkpoint`, so that Lightning calls it after all other callbacks, whose states then belong to the same moment.
    """

    def __init__(self) -> None:
        self._seen_step = 0
        self._stepped = False

    @abstractmethod
    def at_resumable_point(self, trainer: Trainer, *, epoch_ended: bool) -> None:
        """Act at a resumable point; called in all processes at the same moments."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the current step."""
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Act after a step, unless a validation or the end of the epoch follows."""
        self._stepped = trainer.global_step != self._seen_step
        self._seen_step = trainer.global_step
        if self._stepped and not trainer.is_last_batch and not _validation_follows(trainer, batch_idx):
            self.at_resumable_point(trainer, epoch_ended=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after a validation within an epoch."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and self._stepped and not trainer.is_last_batch:
            self.at_resumable_point(trainer, epoch_ended=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act after an epoch."""
        self.at_resumable_point(trainer, epoch_ended=True)


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether Lightning validates after this batch, which is not the last of its epoch."""
    if not trainer.enable_validation or trainer.should_stop:
        return bool(trainer.should_stop)
    every = trainer.check_val_every_n_epoch
    if every is not None and (trainer.current_epoch + 1) % every != 0:
        return False
    batches = trainer.val_check_batch
    if batches is None or batches == float("inf"):
        return False
    done = (trainer.fit_loop.total_batch_idx if every is None else batch_idx) + 1
    return bool(done % batches == 0)
