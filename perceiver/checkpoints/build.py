"""Build a Perceiver from a plain config.

The config gives each number once. Numbers that parts share (the width of the tokens, the width of the latents) are passed
on from the parts already built: adapters -> fusion -> encoder -> head. The instantiator is custom and small, because a
checkpoint's config may be untrusted: with `trust`, all classes named in the tree are resolved and vetted before the first
is called (see perceiver.checkpoints.trusted_classes).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from torch import nn

from perceiver.adapters.shared import with_shared
from perceiver.checkpoints.trusted_classes import (
    check_allowed,
    check_trust,
    did_you_mean,
    resolve,
    resolve_trusted,
    spelling,
)
from perceiver.decoders import SequenceDecoder, StateHead
from perceiver.encoders.fusion import Fusion
from perceiver.model import Perceiver
from perceiver.runtime.plain import child_path, plain

_TOLERATED = ("_convert_", "_recursive_")  # Hydra settings without effect: a plain tree is always built as a whole
_MISSING = "???"
_MAX_WIDTH = 2**48  # beyond this, torch's error would name the module that reads the part instead
# Steps with shared weights take time but no memory, so the memory limit for untrusted checkpoints does not cover them.
_MAX_STEPS = 4096


class ConfigError(ValueError):
    """A model's config cannot be built; the message begins with the path in the config."""


def build_model(
    config: Mapping[str, Any],
    *,
    trust: Sequence[str] | None = None,
    spec: Mapping[str, Any] | None = None,
    encoder_limit: AbstractContextManager[object] | None = None,
) -> Perceiver:
    """Build the model described by `config` (the key `model` of a run's config, resolved and plain).

    `config`: `_target_` (perceiver.Perceiver or a subclass), `adapters` {modality: node}, `encoder`, `head`, and
    optionally `fusion`, where a node is a dict of `_target_` and keyword arguments, nested to any depth. With several
    adapters and no `fusion`, a `perceiver.Fusion` is created. The model gets copies of `spec` and `config`.

    `trust=None` is for the caller's own config, which may name any importable nn.Module class. A list, possibly empty, is
    for an untrusted config, which may name only the canonical names of nn.Module classes from perceiver, torch.nn.modules
    and the trusted packages.

    `encoder_limit` is entered while adapters, fusion and encoder are built, for parts of untrusted origin; see `vetted`.

    Raises ConfigError, TargetError or PlainError, all ValueErrors, with the path in the config.
    """
    tree = _checked_tree(config)
    classes = _resolve_all(tree, trust)
    model = _Builder(tree, classes).perceiver(None if spec is None else plain(spec, path="spec"), encoder_limit)
    foreign = trust is not None or encoder_limit is not None
    if foreign and (steps := getattr(model.encoder, "num_blocks", 0)) > _MAX_STEPS:
        raise ConfigError(f"model.encoder.num_blocks: expected at most {_MAX_STEPS:,} in a config from a file, got {steps}")
    model.config = _spelled(tree, classes)
    return model


def build_part(config: Mapping[str, Any], *, name: str) -> nn.Module:
    """Build a part of a model, such as an adapter, from the caller's own config; `name` is its path in errors.

    Raises like `build_model`.
    """
    tree = _checked_tree(config)
    return _Builder(tree, _resolve_all(tree, None)).part(tree, name, wired={})


def vetted(parts: Mapping[str, Any], *, trust: Sequence[str]) -> dict[str, Any]:
    """Copy untrusted parts of a model's config, checked so that they may become parts of the caller's own config.

    `parts` maps names in the model, such as adapters, fusion and encoder, to configs. The classes they name must satisfy
    `trust`, as in `build_model`. Values must be final: no references, placeholders or non-finite numbers. Nothing is
    built. Raises like build_model.
    """
    tree = _checked_tree(parts)
    classes = _resolve_all(tree, trust)
    for node, path in _walk(tree):
        for key, value in node.items():
            _check_final(value, child_path(path, key))
    return _spelled(tree, classes)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a model's config with every `_target_` replaced by the class's canonical name, as checkpoints require.

    YAML files name `perceiver.adapters.ImagePixels`, but a re-export could lead to another class, so loading accepts only
    `perceiver.adapters.image.ImagePixels`. Only for the caller's own configs, since it imports the classes that they name.
    Raises like build_model.
    """
    tree = _checked_tree(config)
    return _spelled(tree, _resolve_all(tree, None))


def _spelled(tree: dict[str, Any], classes: Mapping[str, type[nn.Module]]) -> dict[str, Any]:
    for node, _ in _targets(tree):
        node["_target_"] = spelling(classes[node["_target_"]])
    return tree


def _checked_tree(config: Mapping[str, Any]) -> dict[str, Any]:
    tree = plain(config, path="model")
    if type(tree) is not dict:
        raise ConfigError(f"model: expected a mapping with _target_, adapters, encoder and head, got {_kind(tree)}")
    return tree


def _walk(tree: object) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every dict of the tree with its path, parents first, without recursion."""
    stack: list[tuple[Any, str]] = [(tree, "model")]
    while stack:
        node, path = stack.pop()
        if type(node) is dict:
            yield node, path
            stack.extend((value, child_path(path, key)) for key, value in node.items())
        elif type(node) is list:
            stack.extend((value, child_path(path, index)) for index, value in enumerate(node))


def _targets(tree: object) -> list[tuple[dict[str, Any], str]]:
    return [(node, path) for node, path in _walk(tree) if "_target_" in node]


def _resolve_all(tree: dict[str, Any], trust: Sequence[str] | None) -> dict[str, type[nn.Module]]:
    for node, path in _walk(tree):
        _refuse_special_keys(node, path)
    named = [(node["_target_"], f"{path}._target_") for node, path in _targets(tree)]
    if trust is None:
        return {target: resolve(target, path=path) for target, path in named}
    packages = check_trust(trust)
    for target, path in named:  # check all names first, so that a tree with a bad name imports nothing
        check_allowed(target, trust=packages, path=path)
    return {target: resolve_trusted(target, trust=packages, path=path) for target, path in named}


def _refuse_special_keys(node: dict[str, Any], path: str) -> None:
    for key in node:
        if key == "_partial_":
            raise ConfigError(
                f"{path}._partial_: partial objects are refused, because a checkpoint with one cannot be loaded; "
                "name a class derived from torch.nn.Module and give all its arguments"
            )
        if key == "_convert_" or key == "_recursive_":
            if node[key] not in (True, False, "none", "partial", "object", "all"):
                raise ConfigError(f"{path}.{key}: expected one of Hydra's settings, got {_kind(node[key])}")
        elif key == "_args_":
            raise ConfigError(f"{path}._args_: positional arguments are refused; give every argument by name")
        if len(key) > 2 and key.startswith("_") and key.endswith("_") and key not in ("_target_", *_TOLERATED):
            raise ConfigError(f"{path}.{key}: unknown special key{did_you_mean(key, ['_target_', *_TOLERATED])}")


class _Builder:
    """Builder of the nodes of a tree with its resolved classes; `path` is the location of a node in the config."""

    def __init__(self, tree: dict[str, Any], classes: Mapping[str, type[nn.Module]]) -> None:
        self.tree = tree
        self.classes = classes

    def perceiver(self, spec: dict[str, Any] | None, encoder_limit: AbstractContextManager[object] | None) -> Perceiver:
        tree = self.tree
        cls = self._class(tree, "model")
        if not issubclass(cls, Perceiver):
            raise ConfigError(f"model._target_: expected perceiver.Perceiver or a subclass, got {spelling(cls)}")
        for key in ("adapters", "encoder", "head"):
            if tree.get(key) is None:
                raise ConfigError(f"model.{key}: missing; a model requires adapters, encoder and head")
        with nullcontext() if encoder_limit is None else encoder_limit:
            adapters = self._adapters(tree["adapters"])
            fusion, channels = self._fusion(tree.get("fusion"), adapters)
            encoder = self.part(tree["encoder"], "model.encoder", wired={"token_channels": channels})
        latent_channels = _width(encoder, "latent_channels", "model.encoder", self.tree)
        offered: dict[str, Any] = {"latent_channels": latent_channels, "token_channels": channels, "adapters": adapters}
        if hasattr(encoder, "state_channels"):
            offered["state_channels"] = _width(encoder, "state_channels", "model.encoder", self.tree)
        wired: dict[str, Any] = {"latent_channels": latent_channels}
        if type(tree["head"]) is dict:
            kind = self._class(tree["head"], "model.head")
            wired = {name: value for name, value in offered.items() if _accepts(kind, name)}
            if not issubclass(kind, SequenceDecoder | StateHead):
                wired["latent_channels"] = latent_channels
        head = self.part(tree["head"], "model.head", wired=wired, offered=offered)
        rest = {key: value for key, value in tree.items() if key not in ("adapters", "fusion", "encoder", "head")}
        built = {"adapters": adapters, "fusion": fusion, "encoder": encoder, "head": head, "spec": spec}
        model = self.part(rest, "model", wired=built)
        assert isinstance(model, Perceiver)
        return model

    def _adapters(self, nodes: object) -> dict[str, nn.Module]:
        path = "model.adapters"
        if type(nodes) is not dict or not nodes or "_target_" in nodes:
            raise ConfigError(f"{path}: expected a mapping from one or more modalities to adapters, got {_kind(nodes)}")
        adapters = {}
        for name, node in nodes.items():
            if not name.isidentifier():
                raise ConfigError(f"{path}: {name[:60]!r} cannot name a modality; use letters, digits and underscores")
            adapters[name] = self.part(node, f"{path}.{name}", wired={})
        try:
            adapters = with_shared(adapters)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name, adapter in adapters.items():
            _width(adapter, "channels", f"{path}.{name}", self.tree)
        return adapters

    def _fusion(self, node: object, adapters: Mapping[str, nn.Module]) -> tuple[nn.Module | None, int]:
        """Return the fusion and the width of the encoder's tokens; a single adapter needs no fusion unless configured."""
        widths = {
            name: _width(adapter, "channels", f"model.adapters.{name}", self.tree) for name, adapter in adapters.items()
        }
        if node is None and len(widths) == 1:
            return None, next(iter(widths.values()))
        fusion = Fusion(channels=widths) if node is None else self.part(node, "model.fusion", wired={"channels": widths})
        return fusion, _width(fusion, "channels", "model.fusion", self.tree)

    def part(
        self, node: object, path: str, *, wired: Mapping[str, Any], offered: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build the module of a node.

        Args:
            node: its part of the tree.
            path: its location in the config.
            wired: arguments taken from parts already built.
            offered: arguments for modules inside this one that accept them and do not set them.
        """
        if type(node) is not dict:
            raise ConfigError(f"{path}: expected a mapping with _target_ and arguments, got {_kind(node)}")
        cls = self._class(node, path)
        given = {key: value for key, value in node.items() if key != "_target_" and key not in _TOLERATED}
        for key in given:
            if key in wired:
                raise ConfigError(
                    f"{path}.{key}: remove it from the config; it is derived from the parts already built, "
                    "so that no number is given twice"
                )
        _check_arguments(cls, given, path, wired)
        arguments = {key: self._value(value, child_path(path, key), offered or {}) for key, value in given.items()}
        _check_scalars(cls, arguments, path)
        try:
            return cls(**arguments, **wired)
        except Exception as error:
            text = str(error) or type(error).__name__
            if isinstance(error, MemoryError | OverflowError | RuntimeError):
                text += _largest(self.tree)
            elif not any(key in text for key in arguments):
                numbers = {key: value for key, value in given.items() if type(value) in (int, float, list)}
                text += f"; its numbers are {', '.join(f'{key}={str(value)[:60]}' for key, value in numbers.items())}"
            raise ConfigError(f"{path} ({spelling(cls)}): {text}") from error

    def _value(self, value: Any, path: str, offered: Mapping[str, Any]) -> Any:
        if type(value) is dict:
            if "_target_" in value:
                kind = self._class(value, path)
                wired = {name: one for name, one in offered.items() if name not in value and _accepts(kind, name)}
                return self.part(value, path, wired=wired, offered=offered)
            return {key: self._value(item, child_path(path, key), offered) for key, item in value.items()}
        if type(value) is list:
            return [self._value(item, child_path(path, index), offered) for index, item in enumerate(value)]
        _check_final(value, path)
        return value

    def _class(self, node: dict[str, Any], path: str) -> type[nn.Module]:
        if "_target_" not in node:
            raise ConfigError(f"{path}: has no _target_; name the class to build, e.g. _target_: perceiver.Encoder")
        return self.classes[node["_target_"]]


def _check_final(value: object, path: str) -> None:
    """Raise ConfigError for a placeholder, a reference or a non-finite number, also in lists."""
    if type(value) is list:
        for index, item in enumerate(value):
            _check_final(item, child_path(path, index))
    elif type(value) is str:
        if value == _MISSING:
            raise ConfigError(f"{path}: must be given; the config has the placeholder ???")
        if "${" in value:
            raise ConfigError(f"{path}: {value[:80]!r} is not resolved; resolve the config before building from it")
    elif type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value}")


def _accepts(cls: type[nn.Module], argument: str) -> bool:
    return argument in inspect.signature(cls).parameters


def _check_arguments(cls: type[nn.Module], given: Mapping[str, Any], path: str, wired: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(cls).parameters.values())
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in by_name]
    free = [name for name in names if name not in wired]
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        for key in given:
            if key not in names:
                raise ConfigError(
                    f"{path}.{key}: unknown argument of {spelling(cls)}{did_you_mean(key, free)}; "
                    f"expected arguments: {', '.join(free) or 'none'}"
                )
        for key in wired:
            if key not in names:
                raise ConfigError(f"{path}: {spelling(cls)} must accept the keyword argument {key}")
    missing = [p.name for p in by_name if p.default is p.empty and p.name not in given and p.name not in wired]
    if missing:
        raise ConfigError(
            f"{path}: missing {', '.join(missing)}, required by {spelling(cls)}; its arguments: {', '.join(free)}"
        )


_SCALARS: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def _check_scalars(cls: type[nn.Module], given: Mapping[str, Any], path: str) -> None:
    """Check arguments annotated as int, float, str, bool or None; the class itself checks all others."""
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # names that exist for type checkers only
        return
    for key, value in given.items():
        if key in hints:
            _check_scalar(value, hints[key], child_path(path, key))


def _check_scalar(value: Any, hint: Any, path: str) -> None:
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for option in options:
        if type(value) is list and get_origin(option) is Sequence:
            for index, item in enumerate(value):
                _check_scalar(item, get_args(option)[0], child_path(path, index))
        if type(value) is dict and get_origin(option) is Mapping:
            for key, item in value.items():
                _check_scalar(item, get_args(option)[1], child_path(path, key))
    if not options or any(option not in _SCALARS and option is not NoneType for option in options):
        return
    allowed = {kind for option in options for kind in _SCALARS.get(option, (NoneType,))}
    if type(value) not in allowed:
        expected = " or ".join("null" if option is NoneType else option.__name__ for option in options)
        raise ConfigError(f"{path}: expected {expected}, got {_kind(value)}")


def _width(module: nn.Module, attribute: str, path: str, tree: dict[str, Any]) -> int:
    """Return a part's positive integer attribute from which the next part is built."""
    value = getattr(module, attribute, None)
    if type(value) is not int or value < 1:
        shown = "missing" if value is None else repr(str(value)[:60])
        raise ConfigError(
            f"{path}: {spelling(type(module))}.{attribute}: expected a positive int, the width of the module's output; "
            f"got {shown}"
        )
    if value > _MAX_WIDTH:
        raise ConfigError(f"{path}: expected {attribute} of at most {_MAX_WIDTH:,}, got {value:,}{_largest(tree)}")
    return value


def _largest(tree: dict[str, Any]) -> str:
    """End of an error message on sizes: the largest numbers of the config, because the cause may be another part."""
    numbers: list[tuple[float, str]] = []
    for node, path in _walk(tree):
        for key, value in node.items():
            for number in value if type(value) is list else [value]:
                if type(number) in (int, float):
                    numbers.append((number, child_path(path, key)))
    largest = sorted(numbers, reverse=True)[:3]
    return f"; the largest numbers of the config are {', '.join(f'{path} = {number}' for number, path in largest)}"


def _kind(value: object) -> str:
    if type(value) is dict:
        return "an empty mapping" if not value else f"a mapping with {', '.join(list(value)[:4])}"
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
