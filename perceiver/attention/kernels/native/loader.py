"""Builds the native kernel with the system's C compiler at first use, keeps the library in a cache folder and loads it.

Building at first use, for the processor at hand (`-march=native`), needs no compiler at installation and no dispatch over
instruction sets in the code; the price is a few seconds once per machine. Nothing here raises: without a compiler, or with
`PERCEIVER_NATIVE=0` in the environment, there is no library, a reason why, and the eager form serves.
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
from perceiver.attention.kernels.native.task import Task

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
    try:
        compiler = find_compiler()
        if compiler is None:
            return Availability(None, "no C compiler (cc, gcc, clang or $CC)")
        library = build(compiler)
        instructions = f"vectors of {library.perceiver_lanes()} floats"
    except Exception as error:  # whatever is wrong with this machine, the eager form serves
        warnings.warn(
            f"The native attention kernel could not be built; the slower eager form serves. {error} "
            "Set PERCEIVER_NATIVE=0 to silence this.",
            RuntimeWarning,
        )
        return Availability(None, "the C compiler failed")
    return Availability(library, instructions)


class BuildError(Exception):
    """No set of flags gave a library that loads."""


def find_compiler() -> tuple[str, ...] | None:
    """The command $CC, as `ccache gcc`, or cc, gcc or clang, the first that exists; its first word is a path."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an open quotation mark
        named = []
    for words in (named, ["cc"], ["gcc"], ["clang"]):
        path = shutil.which(words[0]) if words else None
        if path is not None:
            return (path, *words[1:])
    return None


def build(compiler: Sequence[str]) -> ctypes.CDLL:
    """Load the kernel's library from the cache, compiling it if it is not there.

    Raises:
        BuildError: if nothing that the compiler makes can be loaded.
        OSError: if neither the cache nor a temporary folder can be written.
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
            warnings.warn(f"The native attention kernel is compiled anew for this process. {error}", RuntimeWarning)
        except OSError:
            pass  # the cache is not writable, or holds programs that may not run
        # A private folder serves this process.
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
        # Each process compiles to a file of its own; whoever is last replaces the others' equal result in one step.
        with folder.building() as own:
            command = [*compiler, *flags, "-o", str(own), str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                raise BuildError(f"{' '.join(command)} said: {done.stderr.strip()[-500:]}")
            folder.publish(own, stem=stem)
        if (found := folder.find(stem)) is None:
            raise BuildError(f"{path}: the library that was just built there is gone or was changed")
        return _load(found)


def _load(path: str | Path) -> ctypes.CDLL:
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


def _key(compiler: Sequence[str], version: str, flags: Sequence[str]) -> str:
    """What the library depends on: source, compiler, flags, processor."""
    parts = [SOURCE.read_text(), *compiler, version, *flags, platform.machine(), platform.processor(), _processor()]
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
