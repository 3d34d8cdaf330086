"""Files that are there whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from perceiver.run.errors import FULL, DiskFullError, free_bytes


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; what was there before stays until the new content is complete and on the disk.

    Raises:
        DiskFullError: if the disk is full; names the file and the free bytes. The earlier file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if _is_full(error):
            raise DiskFullError(
                f"no space left while writing {path}: failed after {written:,} bytes, {free_bytes(path.parent):,} bytes are "
                "free. Files written earlier are intact. Free some space, or set hydra.run.dir=DIR on another disk."
            ) from error
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a flat mapping as JSON, one key per line, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
