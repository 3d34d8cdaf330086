"""Clean stops of a training: Ctrl+C, SIGTERM, a cluster's signal before preemption, a time limit."""

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
"""A time limit in the form of `lightning.pytorch.Trainer.max_time`."""


def until_interrupted(trainer: Trainer, act: Callable[[], Any]) -> None:
    """Call `act`, which runs the trainer. Lightning turns Ctrl+C into exit status 1; this raises KeyboardInterrupt again."""
    try:
        act()
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


class OrderlyStop(AtResumablePoints):
    """Ends a training at the next step after a signal or a time limit, with a checkpoint that continues it exactly.

    SIGINT (Ctrl+C), SIGTERM and SIGUSR1 in any process stop all processes; a second SIGINT stops at once. On a cluster,
    `requeue_signals` lists the signals, among these or others, that also requeue the job. SIGTERM does not requeue: SLURM
    also sends it to cancelled jobs, and requeues preempted jobs by itself.

    Args:
        last: the callback that writes the checkpoint; None: no checkpoint is written.
        max_time: training time of this process, in the form of `Trainer.max_time`: "00:12:00:00" or {hours: 12}. It starts
            again when a run is resumed. None: no limit.

    Raises:
        TrainingStopped: raised inside the training.
    """

    def __init__(self, *, last: LastCheckpoint | None, max_time: MaxTime | None = None) -> None:
        super().__init__()
        self.last = last
        self.timer = None if max_time is None else Timer(max_time, verbose=False)
        self._cause: str | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._requeue: dict[signal.Signals, Requeue] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, replacing Lightning's, which save and communicate in the middle of a step."""
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
        """Restore the previous signal handlers."""
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def at_resumable_point(self, trainer: Trainer, *, epoch_ended: bool) -> None:
        """Stop if any process was asked to stop."""
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
            # os.write, since the signal may have interrupted a print.
            os.write(2, b"\nstopping after this step; Ctrl+C again stops at once\n")

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _of_all_processes(cause: str | None, trainer: Trainer) -> str | None:
    """Return the first cause among all processes."""
    if trainer.world_size == 1:
        return cause
    if not trainer.strategy.reduce_boolean_decision(cause is not None, all=False):
        return None
    causes: list[str | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(causes, cause)
    return next(one for one in causes if one is not None)
