"""A fold as a job of its own: its configuration, and the command line with which its other processes start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from perceiver.data.loading.folds import Fold
from perceiver.run.configuration.command_line import override_key, quoted
from perceiver.run.processes.launch import ranks_of_one_job
from perceiver.run.resuming.resume import AUTO

_REPLACED = ("mode", "ckpt_path", "data.folds", "data.fold", "cache")


def config_of_fold(config: DictConfig, fold: Fold, directory: Path) -> DictConfig:
    """Return the configuration of a training of one fold in its own run directory; it continues what is there.

    Features of frozen networks are those of samples, whatever their fold, so that all folds share a folder of them.
    """
    cache = config.get("cache")
    own = config.copy()
    with open_dict(own):
        own.run_dir = str(directory)
        own.cache = cache
        own.ckpt_path = AUTO
        own.data.folds, own.data.fold = fold.of, fold.number
    return own


@contextmanager
def job_of_fold(fold: Fold, config: DictConfig) -> Iterator[None]:
    """Context for the training of a fold: Lightning starts its other processes with mode=fit and the settings of the fold.

    Args:
        fold: the fold.
        config: its configuration, see `config_of_fold`.
    """
    instance = HydraConfig.instance()
    whole: Any = instance.cfg  # a DictConfig, declared as its schema
    if whole is not None:
        described = whole.copy()
        with read_write(described.hydra):
            overrides = [str(one) for one in described.hydra.overrides.task]
            described.hydra.overrides.task = overrides_of_fold(overrides, fold, cache=config.get("cache"))
        instance.cfg = described
    try:
        with ranks_of_one_job():
            yield
    finally:
        instance.cfg = whole


def overrides_of_fold(overrides: Sequence[str], fold: Fold, *, cache: str | None) -> list[str]:
    """Return the overrides that train one fold alone.

    >>> overrides_of_fold(["mode=cross_validate", "seed=1"], Fold(number=2, of=5), cache=None)
    ['seed=1', 'mode=fit', 'ckpt_path=auto', 'data.folds=5', 'data.fold=2', 'cache=null']
    """
    kept = [one for one in overrides if override_key(one).lstrip("+~") not in _REPLACED]
    folder = "null" if cache is None else quoted(cache)
    return [*kept, "mode=fit", f"ckpt_path={AUTO}", f"data.folds={fold.of}", f"data.fold={fold.number}", f"cache={folder}"]
