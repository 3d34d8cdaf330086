"""The model of a task, if a callback may call it directly."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from perceiver.model import Perceiver


def whole_model(trainer: Trainer, task: LightningModule) -> Perceiver | None:
    """Return the task's model; None if it is not a `perceiver.Perceiver`, or its parameters are sharded over processes."""
    model = getattr(task, "model", None)
    sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
    return model if isinstance(model, Perceiver) and not sharded else None
