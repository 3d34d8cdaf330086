"""The task of a run: the model with the training objective that the group `task` configures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.checkpoints.moved import present_name
from perceiver.model import Perceiver
from perceiver.objectives import Objective
from perceiver.run.configuration.construct import construct
from perceiver.training import Task
from perceiver.training.optimizer import OptimizerFactory, SchedulerFactory


def check_task(task: DictConfig, recipe: checkpoints.Recipe) -> None:
    """Check that the configured task is that of the checkpoint; no class named by a checkpoint is run."""
    stored = recipe.section("task").get("_target_")
    stored = None if stored is None else present_name(str(stored))
    if stored is not None and stored != task.get("_target_"):
        raise ValueError(
            f"task: {recipe.file} was trained with {stored}, but {task.get('_target_')} is configured; select "
            "the checkpoint's task with task=NAME."
        )


def make_task(
    plain: Mapping[str, Any],
    model: Perceiver,
    spec: Mapping[str, Any],
    *,
    optimizer: OptimizerFactory | None = None,
    schedule: SchedulerFactory | None = None,
) -> Task:
    """Combine the model with the configured training objective.

    Args:
        plain: the resolved configuration.
        model: the model to train or test.
        spec: spec of the data.
        optimizer: factory that replaces the configured optimizer.
        schedule: factory that replaces the configured schedule.

    Raises:
        ValueError: `task` is not an objective.
    """
    scheduler = plain.get("scheduler")
    objective = construct(plain["task"])
    if not isinstance(objective, Objective):
        raise ValueError(
            f"task._target_={plain['task']['_target_']}: expected a perceiver.objectives.Objective, or a function "
            f"that returns one, got {type(objective).__name__}."
        )
    return Task(
        model=model,
        objective=objective,
        optimizer=optimizer or construct(plain["optimizer"]),
        scheduler=schedule or (construct(scheduler) if scheduler else None),
        checkpoint=checkpoints.entry(plain, spec),
    )
