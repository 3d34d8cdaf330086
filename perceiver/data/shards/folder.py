"""A folder of shards: `shards.json`, which describes them, and a folder per split with shards and their index.

`shards.json` exists from the start of a conversion, with `"complete": false` until all shards are written and counted.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perceiver.checkpoints.spec import check_spec
from perceiver.data.manifest.targets import KINDS
from perceiver.data.readers.bounded.json_files import read_json
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.index import INDEX, check_split
from perceiver.runtime.files import atomic_write
from perceiver.runtime.plain import refuse_special_keys

__all__ = ["FACTS", "INDEX", "SPLITS", "ShardError", "ShardFolder", "same_source", "write_whole"]

FORMAT, VERSION = "perceiver-shards", 1
FACTS = "shards.json"
SPLITS = ("train", "val", "test")
_KEYS = ("spec", "samples", "rows_per_shard", "source", "complete")


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """Content of `shards.json`.

    Args:
        path: path of the folder.
        spec: spec of the data, including classes and statistics of the training split.
        samples: number of samples per split.
        rows_per_shard: number of samples in a shard, per split; the last shard may have fewer.
        source: description of the source; a conversion continues only from an equal source.
        complete: whether all shards are written.
    """

    path: Path
    spec: dict[str, Any]
    samples: dict[str, int]
    rows_per_shard: dict[str, int] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ShardFolder":
        """Read `shards.json` of a complete or unfinished folder.

        Raises:
            FileNotFoundError: the folder is missing or has no shards.
            ShardError: `shards.json` is damaged, or of another version.
        """
        folder = Path(path)
        file = folder / FACTS
        if not file.is_file():
            state = "contains no shards" if folder.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"data.shards: expected a folder of shards with {FACTS}, but {folder.resolve()} {state}. Make them with "
                f"mode=shard data.manifest=… shards={folder}."
            )
        try:
            if file.is_symlink():
                raise ValueError("it is a symbolic link")
            content = read_json(file)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"expected format {FORMAT!r}")
            version = content.get("version")
            if type(version) is not int or version != VERSION:
                raise ShardError(
                    f"data.shards: {file} has shards of version {version!r}, but this package reads version "
                    f"{VERSION}. Convert the manifest again into another folder, or use the version of the package "
                    "that wrote them."
                )
            if content.keys() != {"format", "version", *_KEYS}:
                raise ValueError(f"expected the keys format, version, {', '.join(_KEYS)}, got {', '.join(content)}")
            _check_content(**{key: content[key] for key in _KEYS})
        except ShardError:
            raise
        except (OSError, ValueError) as error:
            raise ShardError(f"data.shards: {file} is damaged: {error}. Convert the manifest again.") from error
        return cls(path=folder, **{key: content[key] for key in _KEYS})

    def write(self) -> None:
        """Write `shards.json` atomically.

        Raises:
            ShardError: the result could not be read back.
        """
        try:
            _check_content(**{key: getattr(self, key) for key in _KEYS})
        except ValueError as error:
            raise ShardError(f"shards: {self.path / FACTS} cannot be written: {error}.") from error
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del content["path"]
        write_whole(self.path / FACTS, json.dumps(content, indent=1).encode())

    def check(self) -> None:
        """Check that all shards exist in full size.

        Raises:
            ShardError: the conversion was interrupted, or shards are missing or truncated.
        """
        if not self.complete:
            raise ShardError(
                f"data.shards: the conversion to {self.path} is not finished. Continue it with the same command, "
                f"mode=shard … shards={self.path}."
            )
        for split, count in self.samples.items():
            if count:
                check_split(self.path / split, samples=count)


def _check_content(*, spec: Any, samples: Any, rows_per_shard: Any, source: Any, complete: Any) -> None:
    """Raise ValueError, which names the entry, unless these have the form that `write_shards` writes."""
    for name, value in (("spec", spec), ("samples", samples), ("rows_per_shard", rows_per_shard), ("source", source)):
        if not isinstance(value, dict):
            raise ValueError(f"{name}: expected an object, got {type(value).__name__}")
        refuse_special_keys(value, path=name)
    for name, counts in (("samples", samples), ("rows_per_shard", rows_per_shard)):
        for split, count in counts.items():
            if split not in SPLITS:
                raise ValueError(f"{name}: expected splits {', '.join(SPLITS)}, got {split!r}")
            if type(count) is not int or not 0 <= count < 2**48:
                raise ValueError(f"{name}.{split}: expected an integer of at least 0, got {count!r}")
    if not isinstance(complete, bool):
        raise ValueError(f"complete: expected true or false, got {complete!r}")
    modalities, target = spec.get("modalities"), spec.get("target")
    if not isinstance(modalities, dict) or not modalities:
        raise ValueError("spec.modalities: expected an object with one or more modalities")
    for name, entry in modalities.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            raise ValueError(f"spec.modalities.{name}: expected an object with a kind")
    check_spec(spec)  # first: it requires a text as kind
    if not isinstance(target, dict) or target.get("kind") not in KINDS:
        raise ValueError(f"spec.target.kind: expected one of {', '.join(KINDS)}")


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically."""
    with atomic_write(path) as file:
        file.write(content)


def same_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the entries in which two sources differ."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
