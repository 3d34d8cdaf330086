"""A folder of shards: `shards.json`, which says what they hold, and a folder for each split with shards and their index.

`shards.json` is there from the beginning of a conversion, `"complete": false` until all shards are written and counted.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perceiver.build.plain import refuse_special_keys

FORMAT, VERSION = "perceiver-shards", 1
FACTS, INDEX = "shards.json", "index.json"


class ShardError(ValueError):
    """Shards cannot be written or read; the message names folder or file, what was expected, and what to do.

    A DataLoader reports its workers' errors with their tracebacks in the message; here the message stays what it was.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """What `shards.json` says.

    Args:
        path: of the folder.
        spec: of the data, classes and statistics of the training split included.
        samples: how many each split has.
        rows_per_shard: how many samples a shard of each split has; the last may have fewer.
        source: what it was made from; a conversion is continued only with the same.
        complete: all shards are there.
    """

    path: Path
    spec: dict[str, Any]
    samples: dict[str, int]
    rows_per_shard: dict[str, int] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ShardFolder":
        """From its `shards.json`, finished or not.

        Raises:
            FileNotFoundError: no folder, or one without shards.
            ShardError: `shards.json` is damaged, or of another version.
        """
        folder = Path(path)
        file = folder / FACTS
        if not file.is_file():
            state = "holds no shards" if folder.is_dir() else "is not there"
            raise FileNotFoundError(
                f"data.shards: expected a folder of shards with {FACTS}, but {folder.resolve()} {state}. Make them with "
                f"mode=shard data.manifest=… shards={folder}."
            )
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise ValueError(f"it does not say format {FORMAT!r}")
            if facts.get("version") != VERSION:
                raise ShardError(
                    f"data.shards: {folder} has shards of version {facts.get('version')!r}, this package reads version "
                    f"{VERSION}. Convert the manifest anew into another folder, or use the package that wrote them."
                )
            refuse_special_keys(facts["spec"], path="spec")
            own = {key: facts[key] for key in ("spec", "samples", "rows_per_shard", "source", "complete")}
        except ShardError:
            raise
        except (ValueError, KeyError) as error:
            raise ShardError(f"data.shards: {file} is damaged: {error}. Convert the manifest anew.") from error
        return cls(path=folder, **own)

    def write(self) -> None:
        """Make `shards.json`, whole or not at all."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del content["path"]
        write_whole(self.path / FACTS, json.dumps(content, indent=1).encode())

    def check(self) -> None:
        """Whether all shards are there in their full size.

        Raises:
            ShardError: a conversion that was interrupted, or shards that are missing or truncated.
        """
        if not self.complete:
            raise ShardError(
                f"data.shards: the conversion to {self.path} is not finished. Continue it with the same command as before, "
                f"mode=shard … shards={self.path}."
            )
        for split, count in self.samples.items():
            if count:
                self._check_split(split, count)

    def _check_split(self, split: str, count: int) -> None:
        index = self.path / split / INDEX
        try:
            chunks = json.loads(index.read_text())["chunks"]
            counted = sum(int(chunk["chunk_size"]) for chunk in chunks)
            sizes = {str(chunk["filename"]): int(chunk["chunk_bytes"]) for chunk in chunks}
        except (OSError, ValueError, KeyError) as error:
            raise ShardError(f"data.shards: {index} is missing or damaged: {error}. {_REMEDY}") from error
        if counted != count:
            raise ShardError(f"data.shards: {index} lists {counted} samples, expected {count}. {_REMEDY}")
        for name, size in sizes.items():
            file = self.path / split / name
            if not file.is_file():
                raise ShardError(f"data.shards: the shard {file} is missing, one of {len(sizes)} of this split. {_REMEDY}")
            if (actual := file.stat().st_size) != size:
                raise ShardError(
                    f"data.shards: the shard {file} is truncated: expected {size} bytes, got {actual}. {_REMEDY}"
                )


_REMEDY = "Copy the folder once more from where it came, or convert the manifest anew into another folder."


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """The file is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def same_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The entries in which two sources differ."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
