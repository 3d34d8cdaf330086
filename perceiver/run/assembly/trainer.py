"""The trainer of a run, with its callbacks and loggers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar

from perceiver.run.configuration.construct import construct
from perceiver.run.processes.interruption import OrderlyStop
from perceiver.run.processes.launch import start_ranks_by_job
from perceiver.run.reporting.loggers import make_loggers
from perceiver.run.resuming.checkpoint_io import AtomicCheckpointIO
from perceiver.run.resuming.last_checkpoint import LastCheckpoint


def make_trainer(plain: Mapping[str, Any], callbacks: list[Callback], *, stoppable: bool = False) -> Trainer:
    """Build the configured trainer.

    Args:
        plain: the resolved configuration.
        callbacks: callbacks of the run itself, placed before the configured callbacks.
        stoppable: whether to stop cleanly at signals and at `trainer.max_time`.

    Raises:
        ValueError: Lightning rejects the settings, or this machine lacks the devices.
    """
    configured = [construct(entry) for entry in (plain.get("callbacks") or {}).values() if entry]
    loggers = make_loggers(plain.get("logger"))
    settings = dict(plain["trainer"])
    if not settings.get("enable_progress_bar", True):
        configured = [callback for callback in configured if not isinstance(callback, ProgressBar)]
    # At its time limit, Lightning would end the epoch early and count it as complete.
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
        devices = (
            f" This machine has {torch.cuda.device_count()} CUDA devices; "
            f"trainer.accelerator={settings.get('accelerator')} trainer.devices={settings.get('devices')} were "
            "requested."
        )
        about_devices = any(word in str(error) for word in ("backend", "accelerator", "devices", "GPU"))
        raise ValueError(f"trainer: {error}{devices if about_devices else ''}") from error
    except ValueError as error:
        raise ValueError(f"trainer: {error}") from error
    start_ranks_by_job(trainer, Path(plain["run_dir"]))
    return trainer
