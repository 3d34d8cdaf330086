"""Random numbers of a training step that depend on seed, epoch, step and process only."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from perceiver.runtime.random_streams import STEP, seed_all, stream_seed


class RandomState(Callback):
    """Seeds Python, numpy, torch and accelerators before every epoch and every step, in every process in its own way.

    Dropout, mixing and whatever else a step draws are then what they would have been, wherever a training is resumed, and
    whatever validation, figures or loaders have drawn in between. Make it the first callback: others may draw, too.

    Args:
        seed: of the run.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self._first_epoch = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn which epoch comes first."""
        self._first_epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A loader may draw the order of the first epoch right after this."""
        self._seed(trainer, self._first_epoch, 0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A loader may draw the order of the epoch right after this."""
        self._seed(trainer, trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """All that the step draws follows from this."""
        self._seed(trainer, trainer.current_epoch, 1 + batch_idx)

    def _seed(self, trainer: Trainer, epoch: int, place: int) -> None:
        seed_all(stream_seed(self.seed, STEP, trainer.global_rank, epoch, place))
