"""Resolution of a composed Hydra configuration, with the spec of the data, to plain values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import suppress
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from perceiver.checkpoints.trusted_kinds import import_kinds
from perceiver.modalities.kinds import kind_of
from perceiver.run.configuration.literal import Text, literal, released
from perceiver.run.configuration.resolvers import listed
from perceiver.runtime.plain import PlainError, child_path, refuse_special_keys
from perceiver.runtime.plain import plain as plain_copy

_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


def resolve(config: DictConfig, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the whole configuration as plain dicts, lists and scalars, with all references resolved.

    Args:
        config: the configuration as composed by Hydra; not changed.
        spec: spec of the data module: modalities and target. A modality without an adapter in `model.adapters` gets the
            default of its kind, `adapter/<kind>.yaml`.

    Raises:
        ValueError: an adapter's modality is missing from the data, a modality has neither adapter nor default, a reference
            asks for a missing fact of the spec or a missing adapter, the spec is not plain or has keys like `_target_`, or
            a `_target_` is not named in the configuration itself.
    """
    spec = _checked(spec, config)
    _import_kinds(spec, config)
    wrapped = literal(spec, keys=spec["modalities"].keys())
    config = config.copy()
    with open_dict(config):
        config.spec = wrapped
        _add_default_adapters(config, spec)
        # The classes that may be constructed are fixed before any fact of the data is known.
        config.spec = None
        named: set[str | Text] = set(_targets(config))
        config.spec = wrapped
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        absent = re.search(r"'model\.adapters\.(\w+)[\w.]*'", str(error))
        if absent is not None and absent[1] not in config.model.adapters:
            raise ValueError(
                f"{error.full_key or 'configuration'}: refers to the adapter of modality {absent[1]!r}, but the data "
                f"has only {listed(spec['modalities'])}. Choose data with this modality, or set task.modality."
            ) from None
        missing = re.search(r"'(spec\.[\w.]+)'", str(error))
        if missing is None:
            raise
        target = spec.get("target", {})
        raise ValueError(
            f"{error.full_key or 'configuration'}: refers to {missing[1]}, which the spec of this data lacks. Its "
            f"target is of kind {target.get('kind')!r}, its spec has {listed(spec)} (target: {listed(target)}). "
            "Choose a matching task, other data, or set the value."
        ) from None
    assert isinstance(plain, dict)
    _require_named(plain, named)
    plain = released(plain)
    return {str(key): value for key, value in plain.items()}


def _import_kinds(spec: dict[str, Any], config: DictConfig) -> None:
    """Import kinds that only the data names, as shards do; they must be in `trust` or in the data module's package."""
    asked = OmegaConf.select(config, "data.modalities")
    named = asked if OmegaConf.is_dict(asked) else {}
    package = str(OmegaConf.select(config, "data._target_")).partition(".")[0]
    foreign = {name: entry for name, entry in spec["modalities"].items() if name not in named}
    try:
        import_kinds({"modalities": foreign}, trust=[*(config.get("trust") or []), package])
    except ValueError as error:
        raise ValueError(f"data: {error} (here trust is a key of the configuration: 'trust=[PACKAGE]')") from error


def _checked(spec: dict[str, Any], config: DictConfig) -> dict[str, Any]:
    """Check and copy the spec, which may come from any file."""
    source = f"data ({OmegaConf.select(config, 'data._target_')})"
    try:
        checked: dict[str, Any] = plain_copy(spec, path="spec")
        refuse_special_keys(checked, path="spec")
    except PlainError as error:
        raise ValueError(f"{source}: {error}") from error
    modalities = checked.get("modalities")
    if not isinstance(modalities, dict) or not all(isinstance(entry, dict) for entry in modalities.values()):
        raise ValueError(f"{source}: spec.modalities: expected a mapping by name, got {str(modalities)[:60]!r}.")
    return checked


def _targets(node: Any) -> Iterator[str | Text]:
    """Yield every `_target_` in a configuration, resolved if its reference is already known."""
    for key in node.keys() if OmegaConf.is_dict(node) else range(len(node)):
        # Unresolved nodes: the values of references, for example to the spec, are not known yet.
        child = node._get_node(key)
        if OmegaConf.is_config(child):
            if not (child._is_none() or child._is_interpolation() or child._is_missing()):
                yield from _targets(child)
        elif key == "_target_":
            with suppress(OmegaConfBaseException):
                value = node[key]
                if isinstance(value, str | Text):
                    yield value


def _require_named(tree: Any, named: Set[str | Text], path: str = "") -> None:
    """Check that only classes named in the configuration are constructed; those of a stored model only within `model`."""
    if isinstance(tree, dict):
        target = tree.get("_target_")
        if target is not None:
            # build_model vets all names of a model, both of this package and of a stored model.
            name, in_model = str(released(target)), path.partition(".")[0] == "model"
            known = name in named or (in_model and Text(name) in named)
            if not known or (isinstance(target, Text) and not in_model):
                raise ValueError(
                    f"{path or 'configuration'}._target_: {name[:100]!r} is not written in the configuration itself. "
                    "Classes named by data are never run; write the name out."
                )
        for key, value in tree.items():
            _require_named(value, named, child_path(path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _require_named(value, named, child_path(path, index))


def _add_default_adapters(config: DictConfig, spec: dict[str, Any]) -> None:
    adapters = config.model.get("adapters")
    if adapters is None:
        config.model.adapters = {}
        adapters = config.model.adapters
    modalities = spec["modalities"]
    # A model may also read the label, to decode it or as a condition. The label is not a modality of the data: the task
    # derives it from the targets.
    labels = {released(OmegaConf.select(config, key)) for key in ("model.head.target", "task.label")}
    for name in adapters:
        if name not in modalities and name not in labels:
            raise ValueError(
                f"model.adapters.{name}: the data has no modality {str(name)!r}, only {listed(modalities)}. Remove the "
                f"adapter with '~model.adapters.{name}', or choose data that has it."
            )
    for name, entry in modalities.items():
        if name not in adapters:
            adapters[name] = _default_adapter(name, kind_of(entry).adapter or entry.get("kind"))


def _default_adapter(name: str, kind: object) -> DictConfig:
    """Return `adapter/<kind>.yaml` from Hydra's search path; the kind may come from any file, and only selects an option."""
    known = GlobalHydra.instance().config_loader().get_group_options("adapter")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or kind not in known:
        file = f"adapter/{kind}.yaml" if isinstance(kind, str) and _KIND.fullmatch(kind) else f"adapter {str(kind)[:60]!r}"
        raise ValueError(
            f"model.adapters.{name}: no adapter is configured, and its kind has no default {file}. Choose one with "
            f"+adapter@model.adapters.{name}=NAME; known names: {listed(known)}."
        )
    adapter = compose(f"adapter/{kind}").adapter
    assert isinstance(adapter, DictConfig)
    return adapter
