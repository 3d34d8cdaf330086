"""Putting a job of a cluster into the queue again: the signals that ask for it, and how it is done."""

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
"""Puts the job into the queue; to be called in all its processes. It may exit."""


def requeue_signals(trainer: Trainer) -> dict[signal.Signals, Requeue]:
    """At which signals this job is to be put into the queue again, and how; none outside of clusters.

    Of SLURM that is SIGUSR1, or what `SLURMEnvironment.requeue_signal` says instead, unless its `auto_requeue` is off. A job
    that submitit has started (cluster=slurm) also gets submitit's, SIGUSR2 or $SUBMITIT_PREEMPT_SIGNAL, some time before its
    end; what submitit does about it, in the handler that is there now, is done once the checkpoint is written.
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
    """Have the first process ask SLURM to run the job again from its beginning, as it was submitted; says so if it fails."""
    if process_rank() != 0:
        return
    job = job_id(os.environ)
    command = shutil.which("scontrol")
    if job is None or command is None:
        sys.stderr.write("the job was not requeued: expected SLURM_JOB_ID and the command scontrol; submit it again\n")
        return
    done = subprocess.run([command, "requeue", job], capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(f"the job {job} was not requeued, submit it again: {done.stderr.strip() or done.stdout.strip()}\n")
    else:
        sys.stdout.write(f"job {job} is requeued\n")


def job_id(environment: os._Environ[str] | dict[str, str]) -> str | None:
    """What scontrol calls the present job; of an array, its own task."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array is not None and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")
