"""A single run: train and test the best checkpoint, test a given checkpoint, or use it. Writes into the run directory."""

from __future__ import annotations

import logging
import warnings
from typing import Protocol

import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from perceiver.run.configuration.construct import construct
from perceiver.run.configuration.former_names import with_present_names
from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.run.processes.launch import ranks_of_one_job

# Notices of Lightning that this package has already dealt with, or that are meant for its developers.
_KNOWN_NOTICES = (
    r".*does not have many workers.*",
    r"Your `IterableDataset` has `__len__` defined.*",
    r"Checkpoint directory .* exists and is not empty.*",
    r"Experiment logs directory .* exists and is not empty.*",
    r"You requested to overfit but enabled train dataloader shuffling.*",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`.*",
    r"You're using the WeightAveraging callback with a model that overrides the configure_model callback.*",
    r"Using `DistributedSampler` with the dataloaders.*",  # tasks leave out the samples it repeats
    r"The number of training batches .* is smaller than the logging interval.*",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided.*WeightAveraging.*",
    r"Found .* module\(s\) in eval mode at the start of training.*",  # frozen networks
    r"This DataLoader will create 2 worker processes.*",  # the default of data that is decoded, on a single core
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)


class Mode(Protocol):
    """Mode of a run: an object that `conf/mode/<name>.yaml` describes, with the settings of that mode."""

    def run(self, config: DictConfig) -> float | None:
        """Carry out the mode.

        Args:
            config: the configuration as composed by Hydra, with the settings that all modes share.

        Returns:
            A number by which sweepers compare jobs, or None.
        """
        ...


def run(config: DictConfig) -> float | None:
    """Carry out the run that the configuration describes.

    Args:
        config: the configuration as composed by Hydra (`conf/train.yaml`).

    Returns:
        The result of the mode. mode=fit: the monitored validation metric of the best epoch, or None without validation.
        mode=test: the same metric of the test split. mode=batch_size: the largest batch that fits. Other modes: None.

    Raises:
        ValueError: settings contradict each other; everything known before training is checked before training.
    """
    config = _with_mode(with_present_names(config))
    if not config.get("regularise", True):
        config = without_regularisation(config)
    settings = OmegaConf.to_container(config.mode, resolve=True)
    assert isinstance(settings, dict)
    mode: Mode = construct({str(key): value for key, value in settings.items()})
    with warnings.catch_warnings(), ranks_of_one_job():
        _silence_known_notices()
        return mode.run(config)


def _with_mode(config: DictConfig) -> DictConfig:
    """Return the configuration with the mode as an object, even if a user's YAML gives only its name, as in version 0.1."""
    if OmegaConf.is_dict(config.get("mode")):
        return config
    known = GlobalHydra.instance().config_loader().get_group_options("mode")
    if config.get("mode") not in known:
        raise ValueError(f"mode: expected one of {', '.join(known)}, got {config.get('mode')!r}.")
    described, rest = compose(f"mode/{config.mode}"), config.copy()
    for tree in (described, rest):
        OmegaConf.set_struct(tree, False)
    del rest.mode
    merged = OmegaConf.merge(described, rest)
    assert isinstance(merged, DictConfig)
    return merged


def _silence_known_notices() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in _KNOWN_NOTICES:
        warnings.filterwarnings("ignore", message=pattern)
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
