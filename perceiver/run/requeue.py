"""Putting a SLURM job into the queue again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def requeue() -> None:
    """Ask SLURM to run the present job again from its beginning, as it was submitted; says so where that fails."""
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
