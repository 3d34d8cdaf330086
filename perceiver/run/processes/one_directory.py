"""A shared run directory for all processes of a job, even if they are started by another program."""

from __future__ import annotations

import os

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


def require_one_directory(hydra: DictConfig) -> None:
    """Check that the directory has a fixed name if every process composes the configuration by itself.

    Args:
        hydra: the `hydra` node of the job's configuration.

    Raises:
        ValueError: torchrun or srun started several processes, each of which would create its own timestamped directory.
    """
    starter = _starter()
    if starter is None:
        return
    which = "run" if hydra.mode == RunMode.RUN else "sweep"
    section = OmegaConf.to_container(hydra[which], resolve=False)
    assert isinstance(section, dict)
    if "${now:" in str(section["dir"]):
        raise ValueError(
            f"hydra.{which}.dir: expected a fixed directory, because {starter} starts several processes, each of "
            f"which would create its own timestamped directory. Add hydra.{which}.dir=DIR."
        )


def _starter() -> str | None:
    """Return the program that started several processes of this job; None: a single process, or a fixed directory."""
    environment = os.environ
    if int(environment.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun"
    # An allocation may hold a single process only; submitit passes on a resolved configuration.
    by_srun = "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment and "SUBMITIT_EXECUTOR" not in environment
    return "srun" if by_srun and int(environment.get("SLURM_NTASKS", 1)) > 1 else None
