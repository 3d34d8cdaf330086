"""Resolution of a config's `_target_` to a class, and back.

There are two resolvers. `resolve` is for the caller's own config: it accepts any importable class derived from nn.Module
(for kinds of modality: from `perceiver.modalities.Modality`), under any name (`perceiver.adapters.ImagePixels`).
`resolve_trusted` is for checkpoints, which may be untrusted: it accepts only a class's canonical name
(`perceiver.adapters.image.ImagePixels`) inside an allowed package. It imports nothing outside the allowed packages, and
looks names up only in the dictionaries of modules and classes. Saving a config rewrites its names to canonical names
(`spelling`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import nn

from perceiver.checkpoints.moved import present_name
from perceiver.modalities.modality import Modality

ALLOWED = ("perceiver", "torch.nn.modules")
"""Packages whose modules every checkpoint may name. torch.nn's layers live in torch.nn.modules; the rest of torch.nn
(process groups, quantisation) does not belong in a model's config."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_MAX_LENGTH = 300


class TargetError(ValueError):
    """A `_target_` does not name a usable class, or names a class that is not allowed."""


def resolve(target: object, *, path: str, base: type = nn.Module) -> type[Any]:
    """Return the class derived from `base` that the caller's own config names at `path`; may import any package.

    Raises TargetError if the class does not exist, is not derived from `base`, or cannot be found by its canonical name (a
    checkpoint of the model could then not be loaded).
    """
    name = present_name(_checked_name(target, path))
    parts = name.split(".")
    found: Any = _import(parts[0], name, path)
    for index, part in enumerate(parts[1:], start=1):
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType) and _is_submodule(found, part):
            found = _import(".".join(parts[: index + 1]), name, path)
        else:
            raise TargetError(_not_found(found, ".".join(parts[:index]), part, name, path))
    cls = _derived(found, name, path, base)
    own = spelling(cls)
    if _NAME.fullmatch(own) is None or _lookup(own, path) is not cls:
        raise TargetError(
            f"{path}: {name}: its canonical name {own} does not refer to it. Define it at the top level of an "
            "importable module; otherwise checkpoints of this model cannot be loaded"
        )
    return cls


def check_allowed(target: object, *, trust: Sequence[str], path: str) -> str:
    """Return the name that a checkpoint gives at `path`, if it is in an allowed or trusted package. Imports nothing."""
    name = _checked_name(target, path)
    if any(name.startswith(package + ".") for package in (*ALLOWED, *trust)):
        parts = name.split(".")
        dunder = next((part for part in parts[1:] if part.startswith("__")), None)
        if dunder is not None or (parts[0].startswith("__") and parts[0] not in trust):
            raise TargetError(f"{path}: {name} is refused: {(dunder or parts[0])!r} is not the name of a class or module")
        return name
    top = name.partition(".")[0]
    hint = f"if you trust that package's code, load with trust=[{top!r}]"
    if name.startswith("torch.nn."):
        hint = "for layers of torch.nn, name the defining module, e.g. torch.nn.modules.linear.Linear"
    elif top in ("torch", "builtins", "os", "sys", "subprocess"):
        hint = "models do not need it"
    trusted = ", ".join((*ALLOWED, *trust))
    raise TargetError(f"{path}: the checkpoint names {name}, outside the trusted packages ({trusted}); {hint}")


def resolve_trusted(target: object, *, trust: Sequence[str], path: str, base: type = nn.Module) -> type[Any]:
    """Return the class derived from `base` that a checkpoint names at `path` by its canonical name; see the file's head.

    Raises TargetError before anything is called, or imported from outside the allowed packages.
    """
    name = check_allowed(target, trust=trust, path=path)
    name = present_name(name)
    cls = _derived(_lookup(name, path), name, path, base)
    if spelling(cls) != name:
        raise TargetError(
            f"{path}: {name} is an alias of {spelling(cls)}; a checkpoint must name the module that defines the "
            "class, as perceiver.checkpoints.save does"
        )
    return cls


def spelling(cls: type) -> str:
    """Return the class's canonical name: its module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def check_trust(trust: object) -> tuple[str, ...]:
    """Return the trusted packages as a tuple; TypeError for a bare string, ValueError for an invalid package name."""
    if isinstance(trust, str):
        raise TypeError(f"trust: expected a list of package names, got the string {trust!r}; write trust=[{trust!r}]")
    if not isinstance(trust, Sequence):
        raise TypeError(f"trust: expected a list of package names, got {type(trust).__name__}")
    for name in trust:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"trust: expected names of packages, such as 'my_package', got {name!r}")
    return tuple(trust)


def did_you_mean(word: str, possible: Sequence[str]) -> str:
    """Return '; did you mean x?' for the closest possible word, or an empty string."""
    close = difflib.get_close_matches(word, possible, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _checked_name(target: object, path: str) -> str:
    if type(target) is not str or len(target) > _MAX_LENGTH or _NAME.fullmatch(target) is None:
        shown = repr(target[:60]) if isinstance(target, str) else type(target).__name__
        raise TargetError(f"{path}: expected the dotted name of a class such as perceiver.adapters.ImagePixels, got {shown}")
    return target


def _derived(found: object, name: str, path: str, base: type) -> type[Any]:
    if inspect.isclass(found) and issubclass(found, base):
        return found
    expected = "torch.nn.Module" if base is nn.Module else spelling(base)
    if inspect.isclass(found):
        problem = f"is a class, but not derived from {expected}"
    elif isinstance(found, ModuleType):
        problem = "is a module, not a class"
    elif callable(found):
        problem = "is a function or another callable, not a class"
    else:
        problem = f"is a {type(found).__name__}, not a class"
    raise TargetError(
        f"{path}: {name} {problem}; expected a class derived from {expected}, because checkpoints can rebuild no "
        "other objects"
    )


def _lookup(name: str, path: str) -> object:
    """Look up `name` through a chain of modules and, inside the last module, classes; follow no other attributes."""
    parts = name.split(".")
    found: object = _import(parts[0], name, path)
    depth = 1
    while depth < len(parts) and isinstance(found, ModuleType) and _is_submodule(found, parts[depth]):
        depth += 1
        found = _import(".".join(parts[:depth]), name, path)
    for index, part in enumerate(parts[depth:], start=depth):
        if index > depth and not inspect.isclass(found):
            raise TargetError(
                f"{path}: {name} is refused: {'.'.join(parts[:index])} is neither a module of that package nor a class"
            )
        if part not in vars(found):
            raise TargetError(_not_found(found, ".".join(parts[:index]), part, name, path))
        found = vars(found)[part]
    return found


def _is_submodule(package: ModuleType, name: str) -> bool:
    if not hasattr(package, "__path__"):
        return False
    return importlib.util.find_spec(f"{package.__name__}.{name}") is not None


def _import(module: str, name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise TargetError(
                f"{path}: {name}: module {module} was not found; is its package installed, or on PYTHONPATH?"
            ) from error
        raise TargetError(f"{path}: importing {module} for {name} failed: {error}") from error
    except Exception as error:
        raise TargetError(f"{path}: importing {module} for {name} failed: {type(error).__name__}: {error}") from error


def _not_found(found: object, owner: str, part: str, name: str, path: str) -> str:
    classes = [(key, value) for key, value in vars(found).items() if inspect.isclass(value)]
    possible = [key for key, cls in classes if issubclass(cls, nn.Module | Modality)]
    if isinstance(found, ModuleType) and hasattr(found, "__path__"):
        possible += [module.name for module in pkgutil.iter_modules(found.__path__)]
    possible = sorted({key for key in possible if not key.startswith("_")})
    listed = f" (available: {', '.join(possible)})" if 0 < len(possible) <= 20 else ""
    return f"{path}: {name}: {owner} has no {part}{did_you_mean(part, possible)}{listed}"
