"""The rank of this process in its job, before and after the process group is initialised."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def process_rank() -> int:
    """Return the rank of this process over all machines; rank 0 logs and writes for all processes.

    The rank comes from torch's process group once it is initialised, else from the environment variables of the launcher
    (torchrun, SLURM, or this package's launcher). Does not import torch.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    # Before SLURM's variable, which every process in an allocation has, even if another launcher started it.
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:
        node, of_node = int(environment.get("NODE_RANK", 0)), int(environment.get("LOCAL_WORLD_SIZE", 1))
        return node * of_node + int(environment.get("LOCAL_RANK", 0))
    return int(environment.get("SLURM_PROCID", 0))


def first_process_only(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function to run only in the first process of a job, which logs and writes for all processes."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        if process_rank() == 0:
            function(*args, **kwargs)

    return call
