"""The model of a task, where a callback may call it by itself."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from perceiver.model import Perceiver


def whole_model(trainer: Trainer, task: LightningModule) -> Perceiver | None:
    """The task's model; None where it is another than `perceiver.Perceiver`, or its parameters lie on several processes."""
    model = getattr(task, "model", None)
    sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
    return model if isinstance(model, Perceiver) and not sharded else None
