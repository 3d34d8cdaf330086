"""Data in an OmegaConf tree: values that configurations can refer to but OmegaConf never interprets."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

_WORD = re.compile(r"[\w\- ]+")


class Text:
    """A string from a file or a data set.

    OmegaConf takes `${…}` and `???` in any str for its own syntax, even in a resolved str. So this class is not a str. Nor
    is it a dataclass, which OmegaConf would take for a mapping.

    Args:
        text: the unchanged string.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and other.text == self.text

    def __hash__(self) -> int:
        return hash((Text, self.text))

    def __repr__(self) -> str:
        return f"Text({self.text!r})"

    def __str__(self) -> str:
        """Return the string for a longer value, as in `${run_dir}/${spec.target.modality}`."""
        if "$" in self.text or self.text == "???":
            raise ValueError(
                f"{self.text[:60]!r} comes from data and looks like a reference, so it cannot be part of a longer "
                "value. Refer to it alone."
            )
        return self.text


def literal(tree: dict[str, Any], *, keys: Collection[str] = ()) -> DictConfig:
    """Wrap the plain mapping `tree` for an OmegaConf tree, with every string as a `Text`.

    Args:
        tree: dicts, lists and scalars, as returned by `perceiver.runtime.plain.plain`.
        keys: strings that stay str if they are words, because only a str can be part of a reference's path:
            `${spec.modalities.${spec.target.modality}.shape}`.
    """
    wrapped: DictConfig = OmegaConf.create(_wrapped(tree, frozenset(keys)), flags={"allow_objects": True})
    return wrapped


def released(tree: Any) -> Any:
    """Return a copy of a tree of dicts and lists in which every `Text` is a str again."""
    if isinstance(tree, dict):
        return {key: released(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [released(value) for value in tree]
    return tree.text if isinstance(tree, Text) else tree


def _wrapped(tree: Any, keys: frozenset[str]) -> Any:
    if isinstance(tree, dict):
        return {key: _wrapped(value, keys) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_wrapped(value, keys) for value in tree]
    if isinstance(tree, str):
        return tree if tree in keys and _WORD.fullmatch(tree) else Text(tree)
    return tree
