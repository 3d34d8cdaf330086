"""Requeueing of a cluster job: the signals that request it, and the command that does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer

from perceiver.runtime.process_rank import process_rank

Requeue = Callable[[], None]
"""Requeues the job; must be called in all its processes. It may exit."""


def requeue_signals(trainer: Trainer) -> dict[signal.Signals, Requeue]:
    """Return the signals at which this job is requeued, each with its action; empty outside of clusters.

    For SLURM this is `SLURMEnvironment.requeue_signal` (default: SIGUSR1), unless `auto_requeue` is off. A job started by
    submitit (cluster=slurm) also gets submitit's signal, SIGUSR2 or $SUBMITIT_PREEMPT_SIGNAL, some time before its end.
    Submitit's handler, installed at that time, runs after the checkpoint is written.
    """
    found: dict[signal.Signals, Requeue] = {}
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        found[signal.Signals(environment.requeue_signal or signal.SIGUSR1)] = requeue
    if "SUBMITIT_EXECUTOR" in os.environ:
        number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
        handler = signal.getsignal(number)
        if callable(handler):
            found[number] = lambda: handler(number, None)
    return found


def requeue() -> None:
    """Let the first process ask SLURM to requeue the job as submitted; prints a message if that fails."""
    if process_rank() != 0:
        return
    job = job_id(os.environ)
    command = shutil.which("scontrol")
    if job is None or command is None:
        sys.stderr.write(
            "the job was not requeued, because SLURM_JOB_ID or the command scontrol is missing; submit it again\n"
        )
        return
    done = subprocess.run([command, "requeue", job], capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(f"the job {job} was not requeued, submit it again: {done.stderr.strip() or done.stdout.strip()}\n")
    else:
        sys.stdout.write(f"job {job} was requeued\n")


def job_id(environment: os._Environ[str] | dict[str, str]) -> str | None:
    """Return the current job's id for scontrol; for an array, the id of its task."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array is not None and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")
