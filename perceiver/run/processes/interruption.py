"""Stopping a training in good order: Ctrl+C, SIGTERM, the signal of a cluster before it takes the machine, a time limit."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from perceiver.run.exceptions import TIME_LIMIT, TrainingStopped
from perceiver.run.processes.requeue import Requeue, requeue_signals
from perceiver.run.resuming.last_checkpoint import LastCheckpoint
from perceiver.run.resuming.resumable_points import AtResumablePoints

MaxTime = str | timedelta | dict[str, int]
"""A time limit as `lightning.pytorch.Trainer.max_time` takes it."""


def until_interrupted(trainer: Trainer, act: Callable[[], Any]) -> None:
    """Call `act`, which runs the trainer. Lightning turns Ctrl+C into exit status 1; turn it back into KeyboardInterrupt."""
    try:
        act()
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


class OrderlyStop(AtResumablePoints):
    """Ends a training at the next step after a signal or a time limit, with a checkpoint that continues it exactly.

    SIGINT (Ctrl+C), SIGTERM and SIGUSR1 in any process stop all of them; a second SIGINT stops at once. On a cluster,
    `requeue_signals` say at which of them, or others, the job is also put into the queue again. SIGTERM does not: SLURM
    sends it to jobs that are cancelled, too, and requeues on its own those that it preempts.

    Args:
        last: writes the checkpoint; None: none is written.
        max_time: how long this process trains, as `Trainer.max_time` takes it: "00:12:00:00" or {hours: 12}. Counted anew
            when a run is resumed. None: no limit.

    Raises:
        TrainingStopped: out of the training.
    """

    def __init__(self, *, last: LastCheckpoint | None, max_time: MaxTime | None = None) -> None:
        super().__init__()
        self.last = last
        self.timer = None if max_time is None else Timer(max_time, verbose=False)
        self._cause: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._requeue: dict[signal.Signals, Requeue] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over, from Lightning too, whose own handling writes and sends in the middle of a step."""
        super().on_train_start(trainer, pl_module)
        if self.timer is not None:
            self.timer.on_train_start(trainer, pl_module)
        if trainer.received_sigterm:
            self._cause = "SIGTERM"
        if threading.current_thread() is threading.main_thread():
            self._requeue = requeue_signals(trainer)
            for number in {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *self._requeue}:
                self._handlers[number] = signal.signal(number, self._note)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def at_resumable_point(self, trainer: Trainer, *, epoch_ended: bool) -> None:
        """Stop, if any process was asked to."""
        if self.timer is not None and (self.timer.time_remaining() or 0.0) <= 0 and self._cause is None:
            self._cause = TIME_LIMIT
        cause = _of_all_processes(self._cause, trainer)
        if cause is None:
            return
        if self.last is not None:
            self.last.save(trainer)
        raise TrainingStopped(
            cause=cause,
            step=trainer.global_step,
            checkpoint=None if self.last is None else self.last.path,
            first_process=trainer.is_global_zero,
            requeue=next((how for number, how in self._requeue.items() if number.name == cause), None),
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self._cause == "SIGINT":
            raise KeyboardInterrupt
        self._cause = name
        if name == "SIGINT":
            # Not print, which the signal may have interrupted.
            os.write(2, b"\nstopping after this step; Ctrl+C again stops at once\n")

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _of_all_processes(cause: str | None, trainer: Trainer) -> str | None:
    """The first cause that any process has."""
    if trainer.world_size == 1:
        return cause
    if not trainer.strategy.reduce_boolean_decision(cause is not None, all=False):
        return None
    causes: list[str | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(causes, cause)
    return next(one for one in causes if one is not None)
