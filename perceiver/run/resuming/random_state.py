"""Random numbers of a training step that depend only on seed, epoch, step and process."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from perceiver.runtime.random_streams import STEP, seed_all, stream_seed


class RandomState(Callback):
    """Seeds Python, numpy, torch and accelerators before every epoch and every step, differently in every process.

    Dropout, mixing and all other draws of a step then do not depend on where a training is resumed, nor on draws of
    validation, figures or loaders in between. It must be the first callback, since other callbacks may also draw.

    Args:
        seed: seed of the run.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self._first_epoch = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the number of the first epoch."""
        self._first_epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed before a loader may draw the order of the first epoch."""
        self._seed(trainer, self._first_epoch, 0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed before a loader may draw the order of the epoch."""
        self._seed(trainer, trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed all draws of the step."""
        self._seed(trainer, trainer.current_epoch, 1 + batch_idx)

    def _seed(self, trainer: Trainer, epoch: int, place: int) -> None:
        seed_all(stream_seed(self.seed, STEP, trainer.global_rank, epoch, place))
