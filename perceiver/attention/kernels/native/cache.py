"""Cache of built libraries, and the checks before loading a library, whose code runs in this process as this user.

A library is not loaded from a folder that others can write to, through a link, if another user owns the file, or if its
content has changed. A library's name contains the digest of its content, so that a truncated file, which would crash the
process, is not found.
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
_OLD_BUILD = "tmp"  # prefix of version 0.1's build files
_ABANDONED_SECONDS = 3600.0  # no compiler takes this long
_MOST_BYTES = 2**26


class InsecureCacheError(OSError):
    """The cache folder is not owned by this user; the message gives the cause and the fix."""


def cache_folder() -> Path | None:
    """Return `$XDG_CACHE_HOME/perceiver`, else the platform's cache folder; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "perceiver"
    try:
        home = Path.home()
    except (RuntimeError, KeyError, OSError):  # HOME is unset and the user has no passwd entry, as in some containers
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "perceiver"


class LibraryFolder:
    """A folder of built libraries to which only this user can write. It stays open even if it is renamed.

    Args:
        path: the folder, created if it is missing.

    Raises:
        InsecureCacheError: if the folder is a link or belongs to another user.
        OSError: if it cannot be created or is not a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if path.is_symlink():
            raise InsecureCacheError(
                f"{path}: expected a folder, got a link. Remove it, or set XDG_CACHE_HOME to another folder."
            )
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(self._descriptor)
            if found.st_uid != os.geteuid():
                raise InsecureCacheError(
                    f"{path}: is owned by user {found.st_uid}, not by the current user {os.geteuid()}. Set "
                    "XDG_CACHE_HOME to a folder that you own."
                )
            if stat.S_IMODE(found.st_mode) != 0o700:
                # Files that others have put there are not loaded, because they belong to other users.
                os.fchmod(self._descriptor, 0o700)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the folder's descriptor."""
        os.close(self._descriptor)

    def __enter__(self) -> LibraryFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, stem: str) -> str | None:
        """Return a path to load the intact library of this name from, or None; files that are not intact are removed.

        On Linux the path refers to the very file that was checked, as long as the process lives.
        """
        for name in self._names(stem):
            found = self._checked(name, digest=name.removeprefix(f"{stem}-").removesuffix(_SUFFIX))
            if found is not None:
                return found
            self.remove(name)
        return None

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield the path of a file to build a library in; the file is removed afterwards unless it was published."""
        self._remove_abandoned()
        path = self.path / f"{_BUILD}{os.getpid()}-{os.urandom(6).hex()}{_SUFFIX}"
        try:
            yield path
        finally:
            self.remove(path.name)

    def publish(self, built: Path, *, stem: str) -> None:
        """Rename a built library to its final name, once its content is on the disk."""
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
        """Remove a file from this folder, if it exists."""
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
        private = found.st_uid == os.geteuid() and found.st_nlink == 1 and not found.st_mode & 0o022
        if (
            not stat.S_ISREG(found.st_mode)
            or not private
            or found.st_size > _MOST_BYTES
            or hashlib.sha256(_read(descriptor)).hexdigest() != digest
        ):
            os.close(descriptor)
            return None
        by_descriptor = f"/proc/self/fd/{descriptor}"
        if sys.platform == "linux" and os.path.exists(by_descriptor):
            # The descriptor stays open: the loader caches libraries by path, so the path must not be reused.
            return by_descriptor
        os.close(descriptor)
        return str(self.path / name)

    def _remove_abandoned(self) -> None:
        """Remove leftover files of killed builds."""
        for name in os.listdir(self._descriptor):
            if name.startswith((_BUILD, _OLD_BUILD)) and name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                    if time.time() - found.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(name, dir_fd=self._descriptor)


def _read(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(_MOST_BYTES)
