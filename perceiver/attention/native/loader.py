"""Builds the native kernel with the system's C compiler at first use, keeps the library in a cache folder and loads it.

Building at first use, for the processor at hand (`-march=native`), needs no compiler at installation and no dispatch over
instruction sets in the code; the price is a few seconds once per machine. Nothing here raises: without a compiler, or with
`PERCEIVER_NATIVE=0` in the environment, there is no library, a reason why, and the eager form serves.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from perceiver.attention.native.task import Task

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread")
# Not every compiler knows its own processor.
FLAG_SETS = ((*FLAGS, "-march=native"), FLAGS)


@dataclass(frozen=True)
class Availability:
    """The loaded library, or None, and a few words for tables: which instructions it uses, or why there is none."""

    library: ctypes.CDLL | None
    reason: str


@functools.cache
def availability() -> Availability:
    """The native library of this process, built where it must be. Never raises; warns once where the build fails."""
    if os.environ.get("PERCEIVER_NATIVE", "1") == "0":
        return Availability(None, "switched off by PERCEIVER_NATIVE=0")
    if sys.platform == "win32":
        return Availability(None, "no native code for Windows")
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return Availability(None, "no native code for 32-bit systems")
    compiler = find_compiler()
    if compiler is None:
        return Availability(None, "no C compiler (cc, gcc, clang or $CC)")
    try:
        library = build(compiler)
    except (OSError, subprocess.SubprocessError, BuildError) as error:
        warnings.warn(
            f"The native attention kernel could not be built; the slower eager form serves. {error} "
            "Set PERCEIVER_NATIVE=0 to silence this.",
            RuntimeWarning,
        )
        return Availability(None, "the C compiler failed")
    return Availability(library, f"vectors of {library.perceiver_lanes()} floats")


class BuildError(Exception):
    """No set of flags gave a library that loads."""


def find_compiler() -> str | None:
    """The path of $CC, cc, gcc or clang, the first that exists."""
    named = os.environ.get("CC", "").split()
    for name in [*named[:1], "cc", "gcc", "clang"]:
        path = shutil.which(name)
        if path is not None:
            return path
    return None


def build(compiler: str) -> ctypes.CDLL:
    """Load the kernel's library from the cache, compiling it if it is not there.

    Raises:
        BuildError: if nothing that the compiler makes can be loaded.
        OSError: if neither the cache nor a temporary folder can be written.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    failures = []
    for flags in FLAG_SETS:
        name = f"kernel-{_key(compiler, version, flags)}.so"
        try:
            return _build_in(cache_folder(), name, compiler, flags)
        except (BuildError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
        except OSError:
            # The cache is not writable, or holds programs that may not run: a private folder serves this process.
            with tempfile.TemporaryDirectory(prefix="perceiver-") as folder:
                try:
                    return _build_in(Path(folder), name, compiler, flags)
                except (BuildError, subprocess.TimeoutExpired) as error:
                    failures.append(str(error))
    raise BuildError(failures[-1])


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/perceiver`, else the platform's place for caches."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "perceiver"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "perceiver"


def _build_in(folder: Path, name: str, compiler: str, flags: Sequence[str]) -> ctypes.CDLL:
    path = folder / name
    if path.exists():
        try:
            return _load(path)
        except (OSError, AttributeError, BuildError):
            path.unlink(missing_ok=True)  # damaged; made anew below
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Each process compiles to a file of its own; whoever is last replaces the others' equal result in one step.
    handle, own = tempfile.mkstemp(dir=folder, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *flags, "-o", own, str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)} said: {done.stderr.strip()[-500:]}")
        os.replace(own, path)
    finally:
        Path(own).unlink(missing_ok=True)
    return _load(path)


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("perceiver_forward", "perceiver_backward"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.POINTER(Task)], ctypes.c_int
    for name in ("perceiver_task_size", "perceiver_lanes"):
        function = getattr(library, name)
        function.argtypes, function.restype = [], ctypes.c_int64
    library.perceiver_use_team.argtypes, library.perceiver_use_team.restype = [ctypes.c_void_p], None
    if library.perceiver_task_size() != ctypes.sizeof(Task):
        raise BuildError(f"{path} has another layout of its task than this package; remove it.")
    library.perceiver_use_team(team())
    return library


def team() -> int | None:
    """The address of `GOMP_parallel` in the OpenMP whose threads torch uses, be it GNU's or LLVM's, or None."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        # Torch makes the symbols of its OpenMP global: what the whole process sees is what torch calls.
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None


def _key(compiler: str, version: str, flags: Sequence[str]) -> str:
    """What the library depends on: source, compiler, flags, processor."""
    parts = [SOURCE.read_text(), compiler, version, *flags, platform.machine(), platform.processor(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """The model and instruction sets of the first processor, where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features", "CPU part", "cpu model")
    first = text.split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(wanted))
