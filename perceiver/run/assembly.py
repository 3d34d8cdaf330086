"""What runs are made of, each built from the resolved configuration: the data's spec, the task, the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.checkpoints.moved import present_name
from perceiver.data.loading.module import DataModule
from perceiver.data.loading.source import Source
from perceiver.model import Perceiver
from perceiver.objectives import Objective
from perceiver.run.configuration.construct import construct
from perceiver.run.fine_tuning.initialisation import Initialisation
from perceiver.run.processes.interruption import OrderlyStop
from perceiver.run.processes.launch import start_ranks_by_job
from perceiver.run.resuming.checkpoint_io import AtomicCheckpointIO
from perceiver.run.resuming.last_checkpoint import LastCheckpoint
from perceiver.training import Task


def make_data(node: DictConfig | Mapping[str, Any]) -> LightningDataModule:
    """The data module of the group `data`, whose keys are flat.

    `_target_` is a `perceiver.data.Source`: the keys that `DataModule` takes (`batch_size`, `num_workers`, `augment`,
    `corruption`, `balanced_sampling`, `num_labelled`) go to it, all others to the source, which also gets those of
    them that are among its own arguments. Any other `_target_` makes a LightningDataModule with a `spec`, and gets all keys.

    Args:
        node: `config.data`, resolved or not.
    """
    source = instantiate({"_target_": node["_target_"], "_partial_": True}).func
    if isinstance(source, type) and issubclass(source, Source):
        return DataModule.of(source, **instantiate(node, _target_="builtins.dict", _convert_="all"))
    data: LightningDataModule = instantiate(node, _convert_="all")
    return data


def spec_of(data: LightningDataModule) -> dict[str, Any]:
    """What the data says of modalities and target, once it is set up; ValueError if it says nothing."""
    spec = getattr(data, "spec", None)
    if not isinstance(spec, Mapping) or "modalities" not in spec:
        raise ValueError(
            f"data: {type(data).__name__}.spec: expected a dict with 'modalities' and 'target' after setup('fit'), "
            f"got {spec!r}."
        )
    return dict(spec)


def class_names(spec: Mapping[str, Any]) -> list[str]:
    """Of the target; none where it has no classes."""
    return [str(name) for name in spec.get("target", {}).get("names", [])]


def check_task(config: DictConfig, recipe: checkpoints.Recipe) -> None:
    """The command line names the task, since nothing that a checkpoint names is run; but it must be the checkpoint's own."""
    stored = (recipe.config.get("task") or {}).get("_target_")
    stored = None if stored is None else present_name(str(stored))
    if stored is not None and stored != config.task.get("_target_"):
        raise ValueError(
            f"task: {recipe.file} was trained with {stored}, but {config.task.get('_target_')} is configured; "
            "choose its own with task=NAME."
        )


def make_task(
    plain: Mapping[str, Any], model: Perceiver, spec: Mapping[str, Any], start: Initialisation | None = None
) -> Task:
    """The model with the configured training objective.

    Raises:
        ValueError: `task` is not an objective.
    """
    scheduler = plain.get("scheduler")
    optimizer = construct(plain["optimizer"])
    objective = construct(plain["task"])
    if not isinstance(objective, Objective):
        raise ValueError(
            f"task._target_={plain['task']['_target_']}: expected a perceiver.objectives.Objective, or what makes one, got "
            f"{type(objective).__name__}."
        )
    return Task(
        model=model,
        objective=objective,
        optimizer=optimizer if start is None else start.optimizer(optimizer, model),
        scheduler=None if not scheduler else construct(scheduler),
        checkpoint=checkpoints.entry(plain, spec),
    )


def make_trainer(plain: Mapping[str, Any], callbacks: list[Callback], *, stoppable: bool = False) -> Trainer:
    """The trainer with these callbacks first, then those of the configuration.

    Args:
        plain: the resolved configuration.
        callbacks: of the run itself.
        stoppable: stop in good order at signals and at `trainer.max_time`.
    """
    configured = [construct(entry) for entry in (plain.get("callbacks") or {}).values() if entry]
    loggers = [construct(entry) for entry in (plain.get("logger") or {}).values() if entry]
    settings = dict(plain["trainer"])
    # Lightning would end the epoch early at its time limit, and count it as done.
    max_time = settings.pop("max_time", None)
    if stoppable:
        last = next((callback for callback in configured if isinstance(callback, LastCheckpoint)), None)
        configured.append(OrderlyStop(last=last, max_time=max_time))
    try:
        trainer: Trainer = construct(
            settings,
            callbacks=[*callbacks, *configured],
            logger=loggers or False,
            plugins=[AtomicCheckpointIO()],
        )
    except MisconfigurationException as error:
        raise ValueError(
            f"trainer: {error} This machine has {torch.cuda.device_count()} CUDA devices; trainer.accelerator="
            f"{settings.get('accelerator')} trainer.devices={settings.get('devices')} were asked for."
        ) from error
    except ValueError as error:
        raise ValueError(f"trainer: {error}") from error
    start_ranks_by_job(trainer, Path(plain["run_dir"]))
    return trainer
