"""`regularise=false`: disables all regularisation, so that a model can memorise its training data."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

OFF: dict[str, Any] = {
    "augment": None,
    "train_crop": None,
    "mix": None,
    "label_smoothing": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "modality_dropout": None,
    "weight_decay": 0.0,
}
"""Regularising arguments by name, with the values that switch them off."""

GROUPS = ("data", "model", "task", "optimizer")


def without_regularisation(config: DictConfig) -> DictConfig:
    """Return a copy of the configuration with every argument of `OFF` switched off, anywhere in `GROUPS`.

    No arguments are added: a task without label smoothing stays without it.
    """
    config = config.copy()
    with open_dict(config):
        for group in GROUPS:
            if OmegaConf.is_dict(config.get(group)):
                _switch_off(config[group])
    return config


def _switch_off(node: Any) -> None:
    names = list(node.keys()) if OmegaConf.is_dict(node) else range(len(node))
    for name in names:
        if name in OFF:
            node[name] = OFF[name]
            continue
        # Unresolved nodes: the values of references, for example to the spec, are not known yet.
        child = node._get_node(name)
        if OmegaConf.is_config(child) and not (child._is_none() or child._is_interpolation() or child._is_missing()):
            _switch_off(child)
