"""Files that are there whole or not at all: written beside their place, flushed to the disk, then renamed.

Whatever happens while one is written (a full disk, a crash, a kill), the file of that name is the earlier one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a limit on file sizes that is exhausted."""


class DiskFullError(OSError):
    """The disk is full, or will be; `errno` is ENOSPC, the message names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextmanager
def atomic_write(path: Path, *, expected_bytes: int = 0) -> Iterator[BinaryIO]:
    """Open `path` for writing; what was there before stays until the new content is complete and on the disk.

    Args:
        path: missing folders are made.
        expected_bytes: how much will be written, if known: then a disk too small is found before.

    Raises:
        DiskFullError: if the disk is full; names the file and the free bytes. The earlier file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if expected_bytes and (free := free_bytes(path.parent)) < expected_bytes:
        raise _disk_full(path, f"it needs {expected_bytes:,} bytes, {free:,} bytes are free")
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if _is_full(error):
            free = free_bytes(path.parent)
            raise _disk_full(path, f"failed after {written:,} bytes, {free:,} bytes are free") from error
        raise
    flush_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """Where this process writes what will be renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; call it while nobody writes there."""
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def replace_keeping(new: Path, path: Path, *, previous: Path) -> None:
    """Give `new`, a complete file or folder, the name `path`; what had it, if anything, is called `previous` from then on.

    At every moment at least one of the two names is a complete file. For files `path` is, where the file system has links.
    """
    if path.is_file() and not previous.is_dir():
        link = temporary_beside(previous)
        try:
            os.link(path, link)
            os.replace(link, previous)
        except OSError:  # no links here
            link.unlink(missing_ok=True)
            os.replace(path, previous)
    elif path.exists():
        if previous.is_dir():
            shutil.rmtree(previous)
        os.replace(path, previous)
    os.replace(new, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a flat mapping as JSON, one key per line, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def free_bytes(directory: Path) -> int:
    """Free bytes of the disk that holds `directory`, which need not exist yet."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _disk_full(path: Path, what: str) -> DiskFullError:
    kept = "The earlier file of that name is intact" if path.exists() else "Files written earlier are intact"
    return DiskFullError(
        f"no space left while writing {path}: {what}. {kept}. Free some space, or write to another disk (a run: "
        "hydra.run.dir=DIR)."
    )


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
