"""Resolvers for references in the configuration, in addition to those of OmegaConf and Hydra."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import Container, OmegaConf


def register_resolvers() -> None:
    """Register `${modality:KEY}`, `${adapter:KEY}`, `${own_name:}`, `${ceil_divide:A,B}`, `${length:LIST}` with OmegaConf.

    Repeated calls are allowed.
    """
    OmegaConf.register_new_resolver("modality", _modality, replace=True)
    OmegaConf.register_new_resolver("adapter", _adapter, replace=True)
    OmegaConf.register_new_resolver("own_name", _own_name, replace=True)
    OmegaConf.register_new_resolver("ceil_divide", _ceil_divide, replace=True)
    OmegaConf.register_new_resolver("length", _length, replace=True)


def _modality(key: str, *default: Any, _parent_: Container, _root_: Container) -> Any:
    """`${modality:KEY}` below model.adapters.<name> or model.head.queries.<name>: spec.modalities.<name>.KEY.

    `${modality:KEY,DEFAULT}` is DEFAULT if the fact is missing from the spec or null.
    """
    name = _modality_of(_parent_, _root_)
    spec = OmegaConf.select(_root_, "spec")
    if spec is None:
        raise ValueError("${modality:" + key + "}: the data's spec is not known yet; the run adds it to the config.")
    modalities = OmegaConf.select(spec, "modalities")
    if name not in modalities:
        raise ValueError(f"model.adapters.{name}: the data has no modality {name!r}, only {listed(modalities)}.")
    value = OmegaConf.select(modalities[name], key)
    if value is None and len(default) == 1:
        return default[0]
    if value is None:
        state = "is null (it differs between samples)" if _has(modalities[name], key) else "is missing"
        raise ValueError(
            f"model.adapters.{name}: {key!r} of modality {name!r} {state}; the spec has {listed(modalities[name])}. Set "
            "the adapter's argument explicitly."
        )
    return value


def _adapter(key: str, *, _parent_: Container, _root_: Container) -> Any:
    """`${adapter:KEY}` below model.head.queries.<name>: the configured model.adapters.<name>.KEY."""
    name = _modality_of(_parent_, _root_)
    value = OmegaConf.select(_root_, f"model.adapters.{name}.{key}")
    if value is None:
        raise ValueError(
            f"model.head.queries.{name}: the queries need model.adapters.{name}.{key}, which is not configured."
        )
    # Resolved in place, since its references may be relative.
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _own_name(*, _parent_: Container, _root_: Container) -> str:
    """`${own_name:}` below model.adapters.<name> or model.head.queries.<name>: that name."""
    return _modality_of(_parent_, _root_)


def _modality_of(parent: Container, root: Container) -> str:
    """Return the key below `model.adapters` or `model.head.queries` that contains an element."""
    places = [place for place in (OmegaConf.select(root, key) for key in ("model.adapters", "model.head.queries")) if place]
    node: Any = parent
    while node is not None:
        above = node._get_parent()
        if any(above is place for place in places):
            return str(node._key())
        node = above
    raise ValueError(
        "${modality:…}: expected below model.adapters.<name> or model.head.queries.<name>; elsewhere use the full "
        "name, e.g. ${spec.num_classes}."
    )


def _has(tree: Any, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    holder = OmegaConf.select(tree, parent) if parent else tree
    if OmegaConf.is_list(holder):
        return last.isdecimal() and int(last) < len(holder)
    return OmegaConf.is_dict(holder) and last in holder


def _ceil_divide(dividend: float, divisor: float) -> int:
    """`${ceil_divide:A,B}`: A / B rounded up, the number of patches, strides or hops that cover A."""
    if not divisor > 0:
        raise ValueError(f"ceil_divide: expected a divisor above 0, got {divisor}.")
    # Ten seconds are 1,000 hops of 0.01, not 1,001: rounding removes the error of binary fractions.
    return math.ceil(round(dividend / divisor, 9))


def _length(entries: Any) -> int:
    """`${length:LIST}`: the number of entries of a list or mapping, e.g. `${length:${modality:numbers}}`."""
    if not (OmegaConf.is_config(entries) or isinstance(entries, list | dict)):
        raise ValueError(f"length: expected a list or a mapping, got {entries!r}.")
    return len(entries)


def listed(names: Any) -> str:
    """Return sorted names, separated by commas, for messages."""
    return ", ".join(sorted(str(name) for name in names)) or "none"
