"""Which of a job's processes this one is, before and after the processes know each other."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def process_rank() -> int:
    """0 in the first process of a job, which speaks and writes for all; counts over all machines.

    Says what torch's process group says once there is one, else what the launcher (torchrun, SLURM, this package's own) has
    put into the environment. Needs no import of torch.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    # Before SLURM's own number, which everything has that an allocation runs, whoever started the processes.
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:
        node, of_node = int(environment.get("NODE_RANK", 0)), int(environment.get("LOCAL_WORLD_SIZE", 1))
        return node * of_node + int(environment.get("LOCAL_RANK", 0))
    return int(environment.get("SLURM_PROCID", 0))


def first_process_only(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function do nothing in all processes of a job but the first, which logs and writes for all."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        if process_rank() == 0:
            function(*args, **kwargs)

    return call
