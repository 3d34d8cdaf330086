"""The task of a run: the training objective around the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.model import Perceiver
from perceiver.run.configuration.construct import construct
from perceiver.tasks.training_steps import OptimizerFactory


def check_task(config: DictConfig, recipe: checkpoints.Recipe) -> None:
    """Check that the configured task is that of the checkpoint; nothing that a checkpoint names is run."""
    stored = (recipe.config.get("task") or {}).get("_target_")
    if stored is not None and stored != config.task.get("_target_"):
        raise ValueError(
            f"task: {recipe.file} was trained with {stored}, but {config.task.get('_target_')} is configured; choose its "
            "own with task=NAME."
        )


def make_task(
    plain: Mapping[str, Any], model: Perceiver, spec: Mapping[str, Any], *, optimizer: OptimizerFactory | None = None
) -> LightningModule:
    """The configured task.

    Args:
        plain: the resolved configuration.
        model: what it trains or tests.
        spec: of the data.
        optimizer: used in place of the configured one.
    """
    scheduler = plain.get("scheduler")
    task: LightningModule = construct(
        plain["task"],
        model=model,
        optimizer=optimizer or construct(plain["optimizer"]),
        scheduler=None if not scheduler else construct(scheduler),
        checkpoint=checkpoints.entry(plain, spec),
    )
    return task
