"""Atomic writes: a file is written under a temporary name, flushed to the disk, then renamed.

If writing fails for any reason (a full disk, a crash, a kill), the earlier file of that name stays.
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
"""Error numbers for an exhausted disk, quota or file size limit."""


class DiskFullError(OSError):
    """The disk is full, or too small for the file; `errno` is ENOSPC, and the message names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextmanager
def atomic_write(path: Path, *, expected_bytes: int = 0) -> Iterator[BinaryIO]:
    """Open `path` for writing; an earlier file stays until the new content is complete and on the disk.

    Args:
        path: the file; missing folders are created.
        expected_bytes: the size of the content, if known, to detect a disk that is too small before writing.

    Raises:
        DiskFullError: if the disk is full; names the file and the free bytes. The earlier file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if expected_bytes and (free := free_bytes(path.parent)) < expected_bytes:
        raise _disk_full(path, f"the file needs {expected_bytes:,} bytes, {free:,} bytes are free")
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
    """Return the temporary path that this process renames to `path` later."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, *, name: str = "") -> None:
    """Remove the temporary files of killed processes in a folder; call it only while no other process writes there.

    Args:
        folder: the folder, which need not exist.
        name: the file that they would have become; "" for any.
    """
    for leftover in folder.glob(f".{name}*.tmp"):
        with contextlib.suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield a folder for files that belong together; on success they move into `directory`, created if missing.

    If writing fails or is interrupted, all earlier files are intact. Otherwise files and folders of the same names are
    replaced: first all earlier ones leave, then all new ones enter. A process killed between these renames leaves names
    missing, but never an earlier file beside a new one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory, name=_STAGED)
    folder = directory / f".{_STAGED}.{os.getpid()}.tmp"
    new, earlier = folder / "new", folder / "earlier"
    for part in (new, earlier):
        part.mkdir(parents=True)
    try:
        yield new
        names = sorted(entry.name for entry in new.iterdir())
        try:
            for source, target in ((directory, earlier), (new, directory)):
                for name in names:
                    if (source / name).exists():
                        os.replace(source / name, target / name)
        except BaseException:
            for kept in earlier.iterdir():
                if not (directory / kept.name).exists():
                    os.replace(kept, directory / kept.name)
            raise
        flush_folder(directory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_STAGED = "staged"


def replace_keeping(new: Path, path: Path, *, previous: Path) -> None:
    """Rename `new`, a complete file or folder, to `path`, and an earlier `path`, if any, to `previous`.

    At least one of the two names is complete at every moment. For files on file systems with hard links, `path` always is.
    """
    if path.is_file() and not previous.is_dir():
        link = temporary_beside(previous)
        try:
            os.link(path, link)
            os.replace(link, previous)
        except OSError:  # no hard links
            link.unlink(missing_ok=True)
            os.replace(path, previous)
    elif path.exists():
        if previous.is_dir():
            shutil.rmtree(previous)
        os.replace(path, previous)
    os.replace(new, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, if the file system supports it, so that renames survive a power failure."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read an object that `write_json` wrote, of at most a megabyte; ValueError for anything else."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(2**20))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object.")
    return content


def free_bytes(directory: Path) -> int:
    """Return the free bytes of the disk that holds `directory`, which need not exist yet."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _disk_full(path: Path, what: str) -> DiskFullError:
    kept = "The earlier file is intact" if path.exists() else "Earlier files are intact"
    return DiskFullError(
        f"no space left while writing {path}: {what}. {kept}. Free some space, or write to another disk (a run: "
        "hydra.run.dir=DIR)."
    )


def _is_full(error: BaseException | None) -> bool:
    """Whether an error or any of its causes reports a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
