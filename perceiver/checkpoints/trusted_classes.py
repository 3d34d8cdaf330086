"""From the `_target_` that a config names to a class, and back.

Two readers with different rights. `resolve` serves the caller's own config: any importable class derived from
nn.Module (for kinds of modality: from `perceiver.modalities.Modality`), spelled as its users spell it
(`perceiver.adapters.ImagePixels`). `resolve_trusted` serves checkpoints, which may come from strangers: only
the class's own spelling (`perceiver.adapters.image.ImagePixels`) inside an allowed package is accepted,
nothing outside the allowed packages is imported, and no attribute of anything but a module's or a class's own dictionary is
read. Configs are rewritten to own spellings when they are saved (`spelling`).
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
"""Packages whose modules every checkpoint may name. torch.nn's layers live in torch.nn.modules; what else lies
under torch.nn (process groups, quantisation) is no part of a model description."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_MAX_LENGTH = 300


class TargetError(ValueError):
    """A `_target_` names no usable class, or one that this reader must not touch."""


def resolve(target: object, *, path: str, base: type = nn.Module) -> type[Any]:
    """The class derived from `base` that the caller's own config names at `path`; may import any package.

    Raises TargetError where there is no such class, where it is a function, not derived from `base`, or a class that could
    not be found again by its own spelling (then a checkpoint of the model could not be loaded).
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
            f"{path}: {name} is a class that calls itself {own}, which does not lead back to it; define it at the top of "
            "an importable module, else no checkpoint of this model could be loaded"
        )
    return cls


def check_allowed(target: object, *, trust: Sequence[str], path: str) -> str:
    """The name that a checkpoint gives at `path`, if it lies in an allowed or trusted package. Imports nothing."""
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
        hint = "layers of torch.nn are spelled by their own module, as in torch.nn.modules.linear.Linear"
    elif top in ("torch", "builtins", "os", "sys", "subprocess"):
        hint = "no model needs it"
    trusted = ", ".join((*ALLOWED, *trust))
    raise TargetError(f"{path}: the checkpoint names {name}, outside the trusted packages ({trusted}); {hint}")


def resolve_trusted(target: object, *, trust: Sequence[str], path: str, base: type = nn.Module) -> type[Any]:
    """The class derived from `base` that a checkpoint names at `path` by its own spelling; see the head of this file.

    Raises TargetError; nothing was called then, and nothing outside the allowed packages imported.
    """
    name = check_allowed(target, trust=trust, path=path)
    name = present_name(name)
    cls = _derived(_lookup(name, path), name, path, base)
    if spelling(cls) != name:
        raise TargetError(
            f"{path}: {name} is another name of {spelling(cls)}; a checkpoint must spell the class's own module. "
            "perceiver.checkpoints.save and entry write it so"
        )
    return cls


def spelling(cls: type) -> str:
    """The class's own spelling, its module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def check_trust(trust: object) -> tuple[str, ...]:
    """The packages that the caller trusts, as a tuple; TypeError for a bare string, ValueError for what names no package."""
    if isinstance(trust, str):
        raise TypeError(f"trust: expected a list of package names, got the string {trust!r}; write trust=[{trust!r}]")
    if not isinstance(trust, Sequence):
        raise TypeError(f"trust: expected a list of package names, got {type(trust).__name__}")
    for name in trust:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"trust: expected names of packages such as 'my_package', got {name!r}")
    return tuple(trust)


def did_you_mean(word: str, possible: Sequence[str]) -> str:
    """'; did you mean x?' for the closest possible word, or nothing."""
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
        f"{path}: {name} {problem}; expected a class derived from {expected}, "
        "since only what is made of those can be loaded again"
    )


def _lookup(name: str, path: str) -> object:
    """What `name` leads to through a chain of modules and, inside the last one, classes; no other attribute is followed."""
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
                f"{path}: {name}: there is no module {module}; is its package installed, or on PYTHONPATH?"
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
    listed = f" (there: {', '.join(possible)})" if 0 < len(possible) <= 20 else ""
    return f"{path}: {name}: {owner} has no {part}{did_you_mean(part, possible)}{listed}"
