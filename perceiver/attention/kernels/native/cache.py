"""Where built libraries are kept, and what is checked before one is loaded: it runs in this process, as this user.

A folder that others can write to, a link, a file of another owner or one that is not what was built is never loaded. The
name of a library holds the digest of its content, so that it is whole or not found: a truncated one would end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUILD, _SUFFIX = ".build-", ".so"
_OLD_BUILD = "tmp"  # what version 0.1 wrote to
_ABANDONED_SECONDS = 3600.0  # no compiler takes as long
_MOST_BYTES = 2**26


class InsecureCacheError(OSError):
    """The cache folder is not this user's own; the message says why and how to mend it."""


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/perceiver`, else the platform's place for caches; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "perceiver"
    try:
        home = Path.home()
    except (RuntimeError, KeyError, OSError):  # no HOME, and the user is in no list of users, as in some containers
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "perceiver"


class LibraryFolder:
    """A folder of built libraries, which only this user can write to; it stays open, whatever happens to its name.

    Args:
        path: the folder, made if it is missing.

    Raises:
        InsecureCacheError: it is a link or belongs to somebody else.
        OSError: it cannot be made or is no folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if path.is_symlink():
            raise InsecureCacheError(f"{path}: is a link; expected a folder. Remove it, or set XDG_CACHE_HOME to another.")
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(self._descriptor)
            if found.st_uid != os.geteuid():
                raise InsecureCacheError(
                    f"{path}: belongs to the user {found.st_uid}, not to {os.geteuid()}, who runs this. Set XDG_CACHE_HOME "
                    "to a folder of your own."
                )
            if stat.S_IMODE(found.st_mode) != 0o700:
                # Whatever others have put there is not this user's, and is not loaded.
                os.fchmod(self._descriptor, 0o700)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> LibraryFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, stem: str) -> str | None:
        """The path by which the intact library of this name can be loaded, or None; what is not intact is removed.

        Where the system has such paths, it leads to the very file that was checked for as long as the process lives.
        """
        for name in self._names(stem):
            found = self._checked(name, digest=name.removeprefix(f"{stem}-").removesuffix(_SUFFIX))
            if found is not None:
                return found
            self.remove(name)
        return None

    @contextmanager
    def building(self) -> Iterator[Path]:
        """A file to build a library in, removed afterwards unless it was published."""
        self._remove_abandoned()
        path = self.path / f"{_BUILD}{os.getpid()}-{os.urandom(6).hex()}{_SUFFIX}"
        try:
            yield path
        finally:
            self.remove(path.name)

    def publish(self, built: Path, *, stem: str) -> None:
        """Give a built library its name, once its content is on the disk."""
        descriptor = os.open(built.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            os.fchmod(descriptor, 0o700)
            os.fsync(descriptor)
            digest = hashlib.sha256(_read(descriptor)).hexdigest()
        finally:
            os.close(descriptor)
        os.rename(built.name, f"{stem}-{digest}{_SUFFIX}", src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)

    def remove(self, name: str) -> None:
        """Remove a file of this folder, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def _names(self, stem: str) -> list[str]:
        return sorted(
            name for name in os.listdir(self._descriptor) if name.startswith(f"{stem}-") and name.endswith(_SUFFIX)
        )

    def _checked(self, name: str, *, digest: str) -> str | None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._descriptor)
        except OSError:
            return None
        found = os.fstat(descriptor)
        own = found.st_uid == os.geteuid() and found.st_nlink == 1 and not found.st_mode & 0o022
        if (
            not stat.S_ISREG(found.st_mode)
            or not own
            or found.st_size > _MOST_BYTES
            or hashlib.sha256(_read(descriptor)).hexdigest() != digest
        ):
            os.close(descriptor)
            return None
        by_descriptor = f"/proc/self/fd/{descriptor}"
        if sys.platform == "linux" and os.path.exists(by_descriptor):
            # It stays open: the loader takes a path that it has seen before for the library that it led to then.
            return by_descriptor
        os.close(descriptor)
        return str(self.path / name)

    def _remove_abandoned(self) -> None:
        """What builds that were killed have left."""
        for name in os.listdir(self._descriptor):
            if name.startswith((_BUILD, _OLD_BUILD)) and name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                    if time.time() - found.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(name, dir_fd=self._descriptor)


def _read(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(_MOST_BYTES)
