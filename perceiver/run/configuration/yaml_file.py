"""The YAML of run directories: values are written unchanged, and files are read without trusting their author."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 * 2**20
"""Maximum size of a file, in bytes."""

_MAX_DEPTH = 64
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?|\.\d)[\d_.]*([eE][-+]?\d+)?")


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Return a plain mapping as YAML, without resolving or interpreting any value."""
    text: str = yaml.dump(dict(tree), Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


def read_text_at(file: Path, *keys: str) -> str | None:
    """Return the unchanged scalar under these nested keys of a YAML file's mapping; None without such a scalar.

    The file is read as a stream of events up to that scalar. No objects are built, so aliases cannot multiply. The result
    is also None if an alias precedes the scalar.

    Raises:
        OSError: the file is not readable.
        ValueError: the file is not an ordinary file, is larger than `MAX_BYTES`, or is not YAML.
    """
    if not file.is_file():
        raise ValueError(f"{file}: expected a regular file.")
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file}: expected a run's configuration, at most {MAX_BYTES:,} bytes.")
    try:
        return _find(content, keys)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {' '.join(str(error).split())}") from error


def _find(content: bytes, keys: tuple[str, ...]) -> str | None:
    events = yaml.parse(content, Loader=yaml.SafeLoader)
    matched = 0  # keys on the path to the current mapping
    depth = 0  # open collections below the current mapping
    key: str | None = None  # key of the current entry; None: a key comes next
    begun = False
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            return None
        if isinstance(event, yaml.CollectionStartEvent):
            if depth:
                depth += 1
                if depth > _MAX_DEPTH:
                    return None
            elif not begun:
                if not isinstance(event, yaml.MappingStartEvent):
                    return None
                begun = True
            elif key == keys[matched] and matched + 1 < len(keys) and isinstance(event, yaml.MappingStartEvent):
                matched, key = matched + 1, None
            else:
                depth = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            if not depth:
                return None  # the mapping ends without the key
            depth -= 1
            if not depth:
                key = "" if key is None else None  # the collection was a key, which matches no name, or the entry's value
        elif isinstance(event, yaml.ScalarEvent) and not depth:
            if key is None:
                key = event.value
            elif key == keys[matched] and matched + 1 == len(keys):
                value: str = event.value
                return value
            else:
                key = None
    return None


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Dumper that repeats shared values, and quotes strings that other YAML readers, such as OmegaConf, take for numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _NUMBER.fullmatch(text) else None)


_Dumper.add_representer(str, _represent_text)
