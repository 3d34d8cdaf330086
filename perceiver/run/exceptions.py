"""Exceptions of a run: a deliberate early stop, a lost process, a failed job."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from perceiver.run.configuration.command_line import typed_override

TIME_LIMIT = "trainer.max_time"
"""The cause of a stop without a signal."""


class TrainingStopped(Exception):
    """Raised when training was asked to stop, and has stopped after a step.

    Args:
        cause: the name of a signal, such as "SIGTERM", or `TIME_LIMIT`.
        step: number of optimizer steps so far.
        checkpoint: the checkpoint written; None if no last checkpoint is kept.
        first_process: whether this is the process that prints the message.
        requeue: asks the cluster to requeue the job, and is called in all processes; it may exit. None: no requeueing.
    """

    def __init__(
        self,
        *,
        cause: str,
        step: int,
        checkpoint: Path | None,
        first_process: bool,
        requeue: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(cause, step, checkpoint)
        self.cause = cause
        self.step = step
        self.checkpoint = checkpoint
        self.first_process = first_process
        self.requeue = requeue

    @property
    def exit_code(self) -> int:
        """Exit code of a process ended by the signal; 0 at a time limit, and in all processes but the first.

        The launcher kills the siblings of a process that exits with an error.
        """
        return 128 + signal.Signals[self.cause].value if self.cause != TIME_LIMIT and self.first_process else 0

    def message(self, directory: Path) -> str:
        """Return a line that names the checkpoint kept and the override that continues the run."""
        because = "interrupted" if self.cause == "SIGINT" else f"stopped by {self.cause}"
        if self.checkpoint is None:
            return f"{because} at step {self.step}: no checkpoint was written, because callbacks.last is null"
        return (
            f"{because}: {self.checkpoint} is kept; continue with the same overrides and "
            f"{typed_override('ckpt_path', directory)} (step {self.step})"
        )


class LostRankError(RuntimeError):
    """Another process of the job did not start, hangs or is gone."""


class RankDiedError(RuntimeError):
    """Another process of the job ended before its work was done; the message names its rank and the cause."""


FULL_ERROR = "PERCEIVER_FULL_ERROR"
"""Holds the user's HYDRA_FULL_ERROR; that variable itself is always 1 while a job runs, see `perceiver.run.main`."""


class JobFailedError(Exception):
    """A job failed and has already reported its error; the message is its directory."""
