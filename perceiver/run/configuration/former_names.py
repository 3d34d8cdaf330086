"""Renaming of classes that a user's YAML or command line spells as in an earlier version."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from perceiver.checkpoints.moved import present_name


def with_present_names(config: DictConfig) -> DictConfig:
    """Return the same configuration with every `_target_` spelled as in this version; see `perceiver.checkpoints.moved`.

    Args:
        config: the configuration as composed by Hydra; not changed.
    """
    config = config.copy()
    with open_dict(config):
        _rename(config)
    return config


def _rename(node: Any) -> None:
    if OmegaConf.is_dict(node):
        if OmegaConf.is_missing(node, "_target_") or node._is_none() or node._is_interpolation():
            return
        for key in node:
            value = node._get_node(key)
            if key == "_target_" and isinstance(value._value(), str) and not value._is_interpolation():
                node[key] = present_name(value._value())
            else:
                _rename(value)
    elif OmegaConf.is_list(node) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        for index in range(len(node)):
            _rename(node._get_node(index))
