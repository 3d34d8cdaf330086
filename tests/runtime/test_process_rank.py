"""Which process of a job this one is, by what launchers put into the environment."""

import subprocess
import sys

import pytest

from perceiver.runtime.process_rank import process_rank

VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID")


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "9", "LOCAL_RANK": "1"}, 9),  # torchrun
        ({"LOCAL_RANK": "1"}, 1),  # started by the first process
        ({"LOCAL_RANK": "1", "NODE_RANK": "2", "LOCAL_WORLD_SIZE": "4"}, 9),
        ({"NODE_RANK": "1"}, 1),  # started by hand on a second machine
        ({"SLURM_PROCID": "3"}, 3),
        ({"SLURM_PROCID": "3", "LOCAL_RANK": "0"}, 0),  # an allocation in which something else started the processes
    ],
)
def test_rank(environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == rank


def test_a_process_group_knows_best() -> None:
    code = """
import torch.distributed as dist
from perceiver.runtime.process_rank import process_rank
assert process_rank() == 5
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
assert process_rank() == 0
dist.destroy_process_group()
assert process_rank() == 5
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"RANK": "5", "PATH": ""})
