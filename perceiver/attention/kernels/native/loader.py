"""Build the native kernel with the system's C compiler at first use, cache the library and load it.

Building at first use, for the actual processor (`-march=native`), needs no compiler at installation and no dispatch over
instruction sets. It costs a few seconds once per machine. `availability` never raises: without a compiler, or with
`PERCEIVER_NATIVE=0`, it returns no library but a reason, and the eager form is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from perceiver.attention.kernels.native.cache import InsecureCacheError, LibraryFolder, cache_folder
from perceiver.attention.kernels.native.task import MomentsTask, Task

SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernel.c", "moments.c", "threads.c"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("kinds.h", "threads.h"))
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno")
# Not every compiler supports -march=native.
FLAG_SETS = ((*FLAGS, "-march=native"), FLAGS)


@dataclass(frozen=True)
class Availability:
    """The loaded library or None, and a few words for tables: the instructions it uses, or why it is missing."""

    library: ctypes.CDLL | None
    reason: str


@functools.cache
def availability() -> Availability:
    """Return the native library of this process, built if necessary. Never raises; warns once if the build fails."""
    if os.environ.get("PERCEIVER_NATIVE", "1") == "0":
        return Availability(None, "switched off by PERCEIVER_NATIVE=0")
    if sys.platform == "win32":
        return Availability(None, "no native code for Windows")
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return Availability(None, "no native code for 32-bit systems")
    try:
        compiler = find_compiler()
        if compiler is None:
            return Availability(None, "no C compiler (cc, gcc, clang or $CC)")
        library = build(compiler)
        instructions = f"vectors of {library.perceiver_lanes()} floats"
    except Exception as error:  # any failure falls back to the eager form
        warnings.warn(
            f"The native attention kernel could not be built; the slower eager form is used instead. {error} "
            "Set PERCEIVER_NATIVE=0 to silence this.",
            RuntimeWarning,
        )
        return Availability(None, "the C compiler failed")
    return Availability(library, instructions)


class BuildError(Exception):
    """No set of compiler flags produced a library that loads."""


def find_compiler() -> tuple[str, ...] | None:
    """Return the first command that exists of $CC (such as `ccache gcc`), cc, gcc and clang; its first word is a path."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # unbalanced quotes
        named = []
    for words in (named, ["cc"], ["gcc"], ["clang"]):
        path = shutil.which(words[0]) if words else None
        if path is not None:
            return (path, *words[1:])
    return None


def build(compiler: Sequence[str]) -> ctypes.CDLL:
    """Load the kernel's library from the cache, compiling it if it is missing.

    Raises:
        BuildError: if no library that the compiler produces can be loaded.
        OSError: if neither the cache nor a temporary folder can be written to.
    """
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    failures = []
    for flags in FLAG_SETS:
        stem = f"kernel-{_key(compiler, version, flags)}"
        cache = cache_folder()
        try:
            if cache is not None:
                return _build_in(cache, stem, compiler, flags)
        except (BuildError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
            continue
        except InsecureCacheError as error:
            warnings.warn(f"The native attention kernel is compiled for this process only. {error}", RuntimeWarning)
        except OSError:
            pass  # the cache is not writable, or its file system forbids execution
        # Fall back to a private folder for this process.
        with tempfile.TemporaryDirectory(prefix="perceiver-") as folder:
            try:
                return _build_in(Path(folder), stem, compiler, flags)
            except (BuildError, subprocess.TimeoutExpired) as error:
                failures.append(str(error))
    raise BuildError(failures[-1])


def _build_in(path: Path, stem: str, compiler: Sequence[str], flags: Sequence[str]) -> ctypes.CDLL:
    with LibraryFolder(path) as folder:
        if (found := folder.find(stem)) is not None:
            with contextlib.suppress(OSError, AttributeError, BuildError):
                return _load(found)
        # Each process compiles to a separate file; the last one replaces the equal results of the others atomically.
        with folder.building() as built:
            command = [*compiler, *flags, "-o", str(built), *map(str, SOURCES), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
            folder.publish(built, stem=stem)
        if (found := folder.find(stem)) is None:
            raise BuildError(f"{path}: the library just built was removed or changed")
        return _load(found)


def _load(path: str | Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("perceiver_forward", "perceiver_backward"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.POINTER(Task)], ctypes.c_int
    library.perceiver_moments.argtypes, library.perceiver_moments.restype = [ctypes.POINTER(MomentsTask)], ctypes.c_int
    for name in ("perceiver_task_size", "perceiver_moments_task_size", "perceiver_lanes"):
        function = getattr(library, name)
        function.argtypes, function.restype = [], ctypes.c_int64
    library.perceiver_use_team.argtypes, library.perceiver_use_team.restype = [ctypes.c_void_p], None
    sizes = library.perceiver_task_size(), library.perceiver_moments_task_size()
    if sizes != (ctypes.sizeof(Task), ctypes.sizeof(MomentsTask)):
        raise BuildError(f"{path}: the library has a different data layout from this package. Remove the file.")
    library.perceiver_use_team(team())
    return library


def team() -> int | None:
    """Return the address of `GOMP_parallel` in the OpenMP runtime that torch uses (GNU or LLVM), or None."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        # Torch loads its OpenMP with global symbols, so the process-wide symbol is the one that torch calls.
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None


def _key(compiler: Sequence[str], version: str, flags: Sequence[str]) -> str:
    """Return a digest of all that the library depends on: source, compiler, flags, processor."""
    code = [file.read_text() for file in (*SOURCES, *HEADERS)]
    parts = [*code, *compiler, version, *flags, platform.machine(), platform.processor(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """Return the model and instruction sets of the first processor, as Linux reports them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features", "CPU part", "cpu model")
    first = text.split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(wanted))
