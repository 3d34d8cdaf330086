"""Application of a preset: between the reading of the data and the building of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.table import Table

from perceiver.data.loading.module import DataModule
from perceiver.run.configuration.command_line import is_job_of_sweep, override_key
from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.run.presets.facts import facts_of
from perceiver.run.presets.rules import CONSIDERED, Adapter, Setting, chosen
from perceiver.run.reporting.console import console
from perceiver.runtime.process_rank import first_process_only

_OF_GROUPS = {
    "model": "model.encoder",
    "model/size": "model.encoder",
    "averaging": "callbacks.averaging",
    "optimizer": "optimizer",
}
"""Settings that a choice of an option on the command line decides. Choices of other groups leave them to the preset."""


def with_preset(
    config: DictConfig, data: LightningDataModule, spec: Mapping[str, Any], *, requested: Collection[str] = ()
) -> DictConfig:
    """Return the configuration with the settings that `preset` chooses, and adjust the data; without a preset, unchanged.

    Overrides of the command line and the settings of `debug` win over the preset; the preset wins over recipes
    (`experiment=NAME`) and defaults. A model that is built as in `init_from` stays as it is. Jobs of a sweep keep the
    metric by which they are compared. What was chosen is printed.

    Args:
        config: the configuration as composed by Hydra.
        data: the data module after its setup.
        spec: spec of the data.
        requested: modalities with a pretrained network as their adapter.

    Raises:
        ValueError: the preset is unknown, or does not suit the data.
    """
    if config.get("preset") is None:
        return config
    if not isinstance(data, DataModule):
        raise ValueError(f"preset: expected null, because {type(data).__name__} is no data of this package.")
    overridden = overridden_keys()
    fixed = [*overridden, "model"] if config.get("init_model") else overridden
    facts = facts_of(
        data.split("train"),
        data.split("val"),
        spec,
        chosen=[name for name in spec["modalities"] if _wins(f"model.adapters.{name}", fixed)],
        pretrained=requested,
        settings={key: OmegaConf.select(config, key) for key in CONSIDERED if _wins(key, fixed)},
        accumulated=int(config.trainer.get("accumulate_grad_batches") or 1),
    )
    settings = chosen(facts, str(config.preset))
    regularised = bool(config.get("regularise", True))
    if not regularised:
        settings = [one for one in settings if one.key != "data.augment"]
    left_out = {
        one.key: reason for one in settings if (reason := _reason_against(one, config, overridden, fixed)) is not None
    }
    config = _with(config, [one for one in settings if one.key not in left_out])
    if not regularised:
        config = without_regularisation(config)
    _adjust(data, config, {one.key for one in settings} - left_out.keys())
    _print(settings, left_out, config)
    return config


def overridden_keys() -> list[str]:
    """Return the keys that the command line, or the sweep, sets; an option of a group counts as the keys it decides.

    An option of the group `debug` counts as all keys that it sets.
    """
    if not HydraConfig.initialized():
        return []
    keys = _keys_of_option("debug")
    for word in HydraConfig.get().overrides.task:
        key = override_key(word).lstrip("+~")
        group, _, package = key.partition("@")
        if package:
            keys.append(package.removeprefix("_global_."))
        elif "." in key or group not in _OF_GROUPS:
            keys.append(key)
        else:
            keys.append(_OF_GROUPS[group])
    return keys


def _keys_of_option(group: str) -> list[str]:
    """Return the keys that the chosen option of a global group sets itself."""
    option = HydraConfig.get().runtime.choices.get(group)
    if option in (None, "null"):
        return []
    loader: Any = GlobalHydra.instance().config_loader()
    return list(_leaves(OmegaConf.to_container(loader.repository.load_config(f"{group}/{option}").config)))


def _leaves(node: Any, place: str = "") -> Iterator[str]:
    if not isinstance(node, dict):
        yield place.removesuffix(".")
        return
    for key, value in node.items():
        yield from _leaves(value, f"{place}{key}.")


def _reason_against(setting: Setting, config: DictConfig, overridden: Sequence[str], fixed: Sequence[str]) -> str | None:
    """Return why a setting is left as it is; None if the preset sets it."""
    if _wins(setting.key, overridden):
        return "as on the command line"
    if _wins(setting.key, fixed):
        return "as in init_from"
    if setting.key != "monitor":
        return None
    if HydraConfig.initialized() and is_job_of_sweep(HydraConfig.get()):
        return "as in all jobs of the sweep"
    best = OmegaConf.select(_with(config, [setting]), "callbacks.best") or {}
    # A metric that was chosen there would otherwise get the direction of this one.
    return None if {"name": best.get("monitor"), "mode": best.get("mode")} == setting.value else "as in callbacks.best"


def _wins(key: str, overridden: Sequence[str]) -> bool:
    """Whether an override sets this key, a part of it, or a whole that it belongs to."""
    wholes = [one for one in overridden if one not in ("data", "trainer", "callbacks", "task", "monitor")]
    return any(
        key == one or one.startswith(f"{key}.") or (one in wholes and key.startswith(f"{one}.")) for one in overridden
    )


def _with(config: DictConfig, settings: Sequence[Setting]) -> DictConfig:
    """Return a copy of the configuration with the settings."""
    config = config.copy()
    with open_dict(config):
        for setting in settings:
            _set(config, setting)
    return config


def _set(config: DictConfig, setting: Setting) -> None:
    value = setting.value
    if isinstance(value, Adapter):
        node = compose(f"adapter/{value.option}").adapter
        with open_dict(node):
            for key, own in value.values.items():
                OmegaConf.update(node, key, own, merge=False)
        value = node
    OmegaConf.update(config, setting.key, value, merge=False, force_add=True)


def _adjust(data: DataModule, config: DictConfig, keys: Collection[str]) -> None:
    """Let the data module, which is built already, follow the changed settings of data."""
    changes: dict[str, Any] = {}
    for key in ("data.batch_size", "data.steps_per_epoch"):
        if key in keys:
            changes[key.removeprefix("data.")] = OmegaConf.select(config, key)
    if "data.augment" in keys:
        augment: Any = OmegaConf.to_container(config.data.augment, resolve=True)
        changes["augment"] = _instantiated(augment)
    data.adjust(**changes)


def _instantiated(node: Mapping[str, Any]) -> Any:
    if "_target_" in node:
        return instantiate(dict(node), _convert_="all")
    return {name: _instantiated(entry) for name, entry in node.items()}


@first_process_only
def _print(settings: Sequence[Setting], left_out: Mapping[str, str], config: DictConfig) -> None:
    table = Table(title=f"preset={config.preset}", title_justify="left")
    for name in ("setting", "value", "why"):
        table.add_column(name, overflow="fold")
    for setting in settings:
        if setting.key in left_out:
            table.add_row(setting.key, left_out[setting.key], "")
        else:
            table.add_row(setting.key, ", ".join(_shown(setting.value)), setting.why)
    console().print(table)


def _shown(value: Any, name: str = "") -> Iterator[str]:
    """Yield the parts of a value in a short form."""
    if isinstance(value, Adapter):
        yield value.option
        value = value.values
    if isinstance(value, Mapping):
        for key, own in value.items():
            if key == "_target_":
                yield str(own).rpartition(".")[2]
            elif not isinstance(own, Mapping):
                yield f"{key}={own}"
            else:
                yield from _shown(own, key)
    else:
        yield str(value)
