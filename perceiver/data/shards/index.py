"""The index of a split, checked before `litdata` reads it, so that only records of bytes are read.

An index can make `litdata` unpickle items, import modules for the structure of samples, inflate compressed frames, or
read other files. Shards of this package use no such feature: every index that `write_shards` would not write is refused.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perceiver.data.readers.bounded.json_files import read_json
from perceiver.data.shards.errors import ShardError

INDEX = "index.json"
REMEDY = "Copy the folder again from its source, or convert the manifest again into another folder."

CONFIG: dict[str, Any] = {
    "chunk_size": None,
    "compression": None,
    "compression_batch_size": None,
    "compression_level": None,
    "data_format": ["bytes"],
    "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',  # a single item
    "encryption": None,
    "ipc_compression": None,
    "item_loader": "PyTreeLoader",
    "types": "bytes",
}
"""Required entries of the format in an index, besides `chunk_bytes`."""

_CHUNK_KEYS = {"chunk_bytes", "chunk_size", "dim", "filename"}
_NAME = re.compile(r"shard-[0-9]{6,12}\.bin")
_MOST_BYTES = 2**32 - 1  # offsets have 32 bits
_ARROW_FOOTER = b"LDARW01\0"  # litdata would read Arrow rows from such a file, instead of items


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06}.bin"


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of the shards of a split: `filename`, `chunk_size` (samples) and `chunk_bytes`.

    Args:
        folder: folder of the split.

    Raises:
        ShardError: the index is missing, damaged, or not written by `write_shards`; the message names the entry.
    """
    file = folder / INDEX
    try:
        for path in (folder, file):
            if path.is_symlink():
                raise ValueError(f"{path} is a symbolic link")
        return _checked(read_json(file))
    except (OSError, ValueError) as error:
        raise ShardError(f"data.shards: {file} is missing or damaged: {error}. {REMEDY}") from error


def check_split(folder: Path, *, samples: int) -> None:
    """Check that all shards of a split exist in full size, with the number of samples in the index.

    Args:
        folder: folder of the split.
        samples: total number of samples in all shards.

    Raises:
        ShardError: as in `read_index`, or a shard is missing, truncated or damaged.
    """
    chunks = read_index(folder)
    if (counted := sum(chunk["chunk_size"] for chunk in chunks)) != samples:
        raise ShardError(f"data.shards: {folder / INDEX} lists {counted} samples, expected {samples}. {REMEDY}")
    for chunk in chunks:
        file = folder / chunk["filename"]
        if file.is_symlink():
            raise ShardError(f"data.shards: the shard {file} is a symbolic link, expected a file. {REMEDY}")
        if not file.is_file():
            raise ShardError(f"data.shards: the shard {file} is missing; this split has {len(chunks)} shards. {REMEDY}")
        if (actual := file.stat().st_size) != chunk["chunk_bytes"]:
            raise ShardError(
                f"data.shards: the shard {file} is truncated: expected {chunk['chunk_bytes']} bytes, got {actual}. {REMEDY}"
            )
        _check_head(file, samples=chunk["chunk_size"], size=actual)


def _checked(index: Any) -> list[dict[str, Any]]:
    _require_keys(index, {"chunks", "config", "updated_at"}, "the index")
    config = index["config"]
    _require_keys(config, {*CONFIG, "chunk_bytes"}, "config")
    for key, expected in CONFIG.items():
        # As JSON, where 1 and true differ.
        if json.dumps(config[key]) != json.dumps(expected):
            raise ValueError(f"config.{key}: expected {_short(expected)}, got {_short(config[key])}")
    _require_number(config["chunk_bytes"], "config.chunk_bytes", most=2**62)
    if index["updated_at"] != "0":
        raise ValueError(f"updated_at: expected '0', got {_short(index['updated_at'])}")
    chunks = index["chunks"]
    if not isinstance(chunks, list) or not chunks:
        raise ValueError("chunks: expected a list of shards")
    names: set[str] = set()
    for number, chunk in enumerate(chunks):
        where = f"chunks[{number}]"
        _require_keys(chunk, _CHUNK_KEYS, where)
        name = chunk["filename"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{where}.filename: expected a name like {shard_name(number)}, got {_short(name)}")
        if name in names:
            raise ValueError(f"{where}.filename: {name} occurs twice")
        names.add(name)
        if chunk["dim"] is not None:
            raise ValueError(f"{where}.dim: expected null, got {_short(chunk['dim'])}")
        _require_number(chunk["chunk_bytes"], f"{where}.chunk_bytes", most=_MOST_BYTES)
        # The number of samples, then a 32-bit offset for each sample and for the end.
        _require_number(chunk["chunk_size"], f"{where}.chunk_size", most=chunk["chunk_bytes"] // 4 - 2)
    return chunks


def _require_keys(value: Any, keys: set[str], where: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, got {_short(value)}")
    if value.keys() != keys:
        unknown, missing = sorted(value.keys() - keys), sorted(keys - value.keys())
        found = f"unknown {_short(unknown)}" if unknown else f"{', '.join(missing)} missing"
        raise ValueError(f"{where}: expected the keys {', '.join(sorted(keys))}, got {found}")


def _require_number(value: Any, where: str, *, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{where}: expected an integer from 1 to {most}, got {_short(value)}")


def _check_head(file: Path, *, samples: int, size: int) -> None:
    """Check that the records are contiguous from the end of the head to the end of the file."""
    head = 4 * (samples + 2)
    with file.open("rb") as content:
        numbers = np.frombuffer(content.read(head), dtype="<u4").astype(np.int64)
        content.seek(max(0, size - len(_ARROW_FOOTER)), os.SEEK_SET)
        footer = content.read()
    places = numbers[1:]
    if (
        len(numbers) != samples + 2
        or numbers[0] != samples
        or places[0] != head
        or places[-1] != size
        # Each record is preceded by its size.
        or (np.diff(places) < 4).any()
    ):
        problem = f"its head does not give the places of {samples} samples in {size} bytes"
    elif footer == _ARROW_FOOTER:
        problem = "it ends like an Arrow table"
    else:
        return
    raise ShardError(f"data.shards: {file}: a shard has the right size but is damaged: {problem}. {REMEDY}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
