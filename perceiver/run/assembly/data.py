"""The data module of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig

from perceiver.data.loading.module import DataModule
from perceiver.data.loading.source import Source


def make_data(node: DictConfig | Mapping[str, Any]) -> LightningDataModule:
    """Build the data module that the group `data` configures; its keys are flat.

    `_target_` is a `perceiver.data.Source`: the keys that `DataModule` takes (`batch_size`, `num_workers`, `augment`,
    `corruption`, `balanced_sampling`, `steps_per_epoch`, `num_labelled`) go to it, all others to the source. The source also
    gets those of the former that are among its arguments. Any other `_target_` gets all keys, and returns a
    LightningDataModule with a `spec`.

    Args:
        node: `config.data`, resolved or not.
    """
    source = instantiate({"_target_": node["_target_"], "_partial_": True}).func
    if isinstance(source, type) and issubclass(source, Source):
        return DataModule.of(source, **instantiate(node, _target_="builtins.dict", _convert_="all"))
    data: LightningDataModule = instantiate(node, _convert_="all")
    return data
