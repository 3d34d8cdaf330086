"""Plain trees: the dicts, lists, strings, numbers, booleans and nulls that make up configs and specs.

A checkpoint may be untrusted, so the check uses no recursion and visits every object once. It determines the expanded size
and depth of the tree before any other code walks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64
MAX_NODES = 2_000_000
_MAX_INT = 2**63


class PlainError(ValueError):
    """A tree holds a value that is not plain, is cyclic, or is too large."""


def plain(tree: object, *, path: str) -> Any:
    """Return a deep copy of `tree`: dict, list, str, int, float, bool and None only (tuples become lists).

    `path` names the tree in errors. Raises PlainError for any other type (subclasses and numpy scalars included),
    keys that are not strings, cycles, more than 64 levels or more than 2 million values when written out.
    """
    _check(tree, path)
    return _copy(tree)


def refuse_special_keys(tree: object, *, path: str) -> None:
    """Raise PlainError if a key of the tree begins and ends with `_`, like `_target_`: data has no such keys."""
    stack = [(tree, path)]
    while stack:
        node, place = stack.pop()
        if isinstance(node, dict):
            for key in node:
                if isinstance(key, str) and len(key) > 2 and key.startswith("_") and key.endswith("_"):
                    raise PlainError(
                        f"{_short(child_path(place, key))}: keys that begin and end with '_' belong to Hydra and are "
                        "refused in a spec; if this is the name of a column or modality, rename it."
                    )
            stack.extend((value, child_path(place, key)) for key, value in node.items())
        elif isinstance(node, list | tuple):
            stack.extend((value, child_path(place, index)) for index, value in enumerate(node))


def child_path(path: str, key: object) -> str:
    """Return `path.key` for a dict's key, `path[3]` for a list's index."""
    return f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else str(key)


def _children(node: Any) -> Iterator[tuple[object, object]]:
    return iter(node.items()) if type(node) is dict else enumerate(node)


def _check(tree: object, path: str) -> None:
    sizes: dict[int, tuple[int, int]] = {}  # container -> (values when written out, levels)
    open_ids: set[int] = set()
    if not _is_container(tree, path):
        return
    # A frame per open container: the object, its path, its remaining children, values and levels so far.
    stack: list[list[Any]] = [[tree, path, _children(tree), 1, 1]]
    open_ids.add(id(tree))
    while stack:
        frame = stack[-1]
        node, node_path, children = frame[0], frame[1], frame[2]
        entry = next(children, None)
        if entry is None:
            stack.pop()
            open_ids.discard(id(node))
            sizes[id(node)] = (frame[3], frame[4])
            if stack:
                _grow(stack[-1], *sizes[id(node)])
            continue
        key, value = entry
        if type(node) is dict and type(key) is not str:
            raise PlainError(f"{node_path}: the key {_shown(key)} is a {_type_name(key)}; keys must be strings")
        value_path = child_path(node_path, key)
        if not _is_container(value, value_path):
            _grow(frame, 1, 0)
        elif id(value) in open_ids:
            raise PlainError(f"{value_path}: contains itself; a config is a tree")
        elif id(value) in sizes:
            _grow(frame, *sizes[id(value)])
        elif len(stack) >= MAX_DEPTH:
            raise PlainError(f"{_short(value_path)}: nested deeper than {MAX_DEPTH} levels")
        else:
            open_ids.add(id(value))
            stack.append([value, value_path, _children(value), 1, 1])


def _grow(frame: list[Any], nodes: int, levels: int) -> None:
    frame[3] += nodes
    frame[4] = max(frame[4], levels + 1)
    if frame[3] > MAX_NODES:
        raise PlainError(f"{_short(frame[1])}: more than {MAX_NODES:,} values when written out")
    if frame[4] > MAX_DEPTH:
        raise PlainError(f"{_short(frame[1])}: nested deeper than {MAX_DEPTH} levels")


def _is_container(value: object, path: str) -> bool:
    kind = type(value)
    if kind is dict or kind is list or kind is tuple:
        return True
    if kind is int:
        if not -_MAX_INT <= value < _MAX_INT:  # type: ignore[operator]
            raise PlainError(f"{_short(path)}: an integer beyond 64 bits")
        return False
    if value is None or kind is str or kind is float or kind is bool:
        return False
    hint = ""
    if kind.__module__.partition(".")[0] == "omegaconf":
        hint = "; convert it to plain values first: OmegaConf.to_container(config, resolve=True)"
    elif kind.__module__.partition(".")[0] in ("numpy", "torch"):
        hint = "; use .item() or .tolist()"
    raise PlainError(
        f"{_short(path)}: {_type_name(value)} is not a plain value; expected dict, list, str, int, float, bool or None{hint}"
    )


def _copy(node: Any) -> Any:
    if type(node) is dict:
        return {key: _copy(value) for key, value in node.items()}
    if type(node) is list or type(node) is tuple:
        return [_copy(value) for value in node]
    return node


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _shown(key: object) -> str:
    return repr(key)[:60] if isinstance(key, (int, float, bool, bytes, type(None))) else "given"


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]}…{path[-40:]}"
