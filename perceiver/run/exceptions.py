"""A training that was stopped on purpose before its end, and what it says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from perceiver.run.configuration.command_line import typed_override

TIME_LIMIT = "trainer.max_time"
"""The cause of a stop that no signal asked for."""


class TrainingStopped(Exception):
    """The training was asked to stop, and has stopped after a step.

    Args:
        cause: the name of a signal, such as "SIGTERM", or `TIME_LIMIT`.
        step: steps of the optimizer so far.
        checkpoint: what was written; None where no last checkpoint is kept.
        first_process: whether this is the one that speaks.
        requeue: asks the cluster to run the job again, in all processes; it may exit. None: nobody is to be asked.
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
        """As of a process that the signal ended; 0 at a time limit, and in all processes but the first.

        One that fails has its siblings killed by the launcher.
        """
        return 128 + signal.Signals[self.cause].value if self.cause != TIME_LIMIT and self.first_process else 0

    def message(self, directory: Path) -> str:
        """One line: what is kept, and how to continue."""
        because = "interrupted" if self.cause == "SIGINT" else f"stopped by {self.cause}"
        if self.checkpoint is None:
            return f"{because} at step {self.step}: no checkpoint was written, since callbacks.last is null"
        return (
            f"{because}: {self.checkpoint} is kept; continue with the same overrides and "
            f"{typed_override('ckpt_path', directory)} (step {self.step})"
        )


class LostRankError(RuntimeError):
    """Another process of the job did not come, hangs or is gone."""


class RankDiedError(RuntimeError):
    """Another process of the job ended before its work was done; the message says which and how."""


FULL_ERROR = "PERCEIVER_FULL_ERROR"
"""The user's HYDRA_FULL_ERROR; the variable itself is always 1 while a job runs, see `perceiver.run.main`."""


class JobFailedError(Exception):
    """A job failed and has said so already; its directory is the message."""
