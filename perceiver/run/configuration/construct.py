"""Construction of objects from the nodes of a resolved configuration, without interpreting their values."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

_NAME = re.compile(r"[\w.]+")
_SETTINGS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def construct(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Build the object of a plain node, innermost nodes first, as `hydra.utils.instantiate` does with `_convert_="all"`.

    Hydra would put all values into an OmegaConf tree again and interpret those that look like references. Class names
    from data may have any form. Here Hydra gets only the name of the target.

    Args:
        node: a resolved mapping with `_target_`.
        arguments: further arguments of the target, passed on unchanged.

    Raises:
        ValueError: `_target_` is not the name of a class or function.
        hydra.errors.InstantiationException: the target does not exist, or Hydra refuses to call it.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or not _NAME.fullmatch(target):
        raise ValueError(f"_target_: expected the dotted name of a class or function, got {str(target)[:60]!r}.")
    recursive = node.get("_recursive_", True)
    values = {key: value for key, value in node.items() if key not in _SETTINGS}
    positional = list(node.get("_args_") or [])
    if recursive:
        values = {key: _built(value) for key, value in values.items()}
        positional = [_built(value) for value in positional]
    make = instantiate({"_target_": target, "_partial_": True})
    if node.get("_partial_"):
        return functools.partial(make, *positional, **values, **arguments)
    return make(*positional, **{**values, **arguments})


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        return construct(value) if "_target_" in value else {key: _built(entry) for key, entry in value.items()}
    return [_built(entry) for entry in value] if isinstance(value, list) else value
