"""`regularise=false`: disables all regularisation, so that a model can memorise its training data."""

from __future__ import annotations

import pydoc
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from perceiver.checkpoints.moved import present_name
from perceiver.runtime.regularising import regularising_arguments

GROUPS = ("data", "model", "task", "optimizer")


def without_regularisation(config: DictConfig) -> DictConfig:
    """Return a copy of the configuration in which every class and function of `GROUPS` gets no regularising arguments.

    Classes declare them, see `perceiver.regularising`. No arguments are added: a task without label smoothing stays
    without it.

    Args:
        config: the configuration as composed by Hydra, whose classes may be imported.
    """
    config = config.copy()
    with open_dict(config):
        for group in GROUPS:
            if OmegaConf.is_dict(config.get(group)):
                _switch_off(config[group])
    return config


def _switch_off(node: Any) -> None:
    mapping = OmegaConf.is_dict(node)
    off = regularising_arguments(_target_of(node)) if mapping else {}
    names: Any = list(node.keys()) if mapping else range(len(node))
    for name in names:
        if name in off:
            node[name] = off[name]
            continue
        # Unresolved nodes: the values of references, for example to the spec, are not known yet.
        child = node._get_node(name)
        if OmegaConf.is_config(child) and not (child._is_none() or child._is_interpolation() or child._is_missing()):
            _switch_off(child)


def _target_of(node: DictConfig) -> object:
    """The class or function that a node names; None if it names none that can be imported."""
    named = node._get_node("_target_")
    if named is None or named._is_interpolation() or named._is_missing():
        return None
    try:
        return pydoc.locate(present_name(str(named._value())))
    except pydoc.ErrorDuringImport:  # building the object reports it
        return None
