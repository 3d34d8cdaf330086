"""One run: train (and test the best), test a checkpoint, or use it; everything it leaves lies in the run directory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch
from omegaconf import DictConfig

from perceiver.run.configuration.former_names import with_present_names
from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.run.fine_tuning.initialisation import with_stored_model
from perceiver.run.modes.batch_size import find_batch_size
from perceiver.run.modes.embed import embed
from perceiver.run.modes.fit import fit
from perceiver.run.modes.predict import predict
from perceiver.run.modes.shard import shard
from perceiver.run.modes.test import evaluate
from perceiver.run.processes.launch import ranks_of_one_job

# Notices of Lightning's that this package has already acted upon or that are meant for its developers.
_KNOWN_NOTICES = (
    r".*does not have many workers.*",
    r"Your `IterableDataset` has `__len__` defined.*",
    r"Checkpoint directory .* exists and is not empty.*",
    r"Experiment logs directory .* exists and is not empty.*",
    r"You requested to overfit but enabled train dataloader shuffling.*",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`.*",
    r"You're using the WeightAveraging callback with a model that overrides the configure_model callback.*",
    r"Using `DistributedSampler` with the dataloaders.*",  # tasks leave out what it repeats
    r"The number of training batches .* is smaller than the logging interval.*",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided.*WeightAveraging.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)


def run(config: DictConfig) -> float | None:
    """Do what the configuration says.

    Args:
        config: as Hydra composed it (`conf/train.yaml`).

    Returns:
        mode=fit: the monitored validation metric of the best epoch, for sweepers; None without validation.
        mode=test: the same metric of the test split.
        mode=batch_size: the largest batch that fits.
        mode=predict, mode=embed, mode=shard: None.

    Raises:
        ValueError: for settings that contradict each other; all that can be known before training is checked before.
    """
    modes: dict[str, Callable[[DictConfig], float | None]] = {
        "fit": fit,
        "test": evaluate,
        "predict": predict,
        "embed": embed,
        "shard": shard,
        "batch_size": find_batch_size,
    }
    config = with_present_names(config)
    if config.mode not in modes:
        raise ValueError(f"mode: expected fit, test, predict, embed, shard or batch_size, got {config.mode!r}.")
    if config.mode not in ("fit", "shard", "batch_size") and config.ckpt_path is None:
        raise ValueError(f"mode={config.mode}: expected ckpt_path=RUN_DIR or ckpt_path=FILE, the checkpoint; got none.")
    if config.mode in ("fit", "batch_size") and config.get("init_model"):
        config = with_stored_model(config)
    if not config.get("regularise", True):
        config = without_regularisation(config)
    with warnings.catch_warnings(), ranks_of_one_job():
        _silence_known_notices()
        return modes[config.mode](config)


def _silence_known_notices() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in _KNOWN_NOTICES:
        warnings.filterwarnings("ignore", message=pattern)
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
