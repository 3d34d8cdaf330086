"""Shared code of the benchmarks: interleaved repetitions, medians, peak memory in a fresh process, facts of the machine."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from perceiver.attention.kernels.dispatch import implementation

Seconds = tuple[float, float]
"""Seconds of a forward without gradients, and of a training step (or of a forward and backward)."""

CPU = torch.device("cpu")


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(
    candidates: Mapping[str, Callable[[], Seconds]], *, repetitions: int, seconds: float, minimum: int = 3
) -> dict[str, list[Seconds]]:
    """Run each candidate once to warm up, then all in turn: at least `minimum` times, then until `seconds` are spent.

    Candidates in a repetition see the same load of the machine, so ratios are taken within a repetition.
    """
    for candidate in candidates.values():
        candidate()
    times: dict[str, list[Seconds]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for repetition in range(1, repetitions + 1):
        for name, candidate in candidates.items():
            times[name].append(candidate())
        if repetition >= minimum and time.perf_counter() - start > seconds:
            break
    return times


def medians(times: Sequence[Seconds]) -> Seconds:
    """Return the median forward and the median training step."""
    return statistics.median(forward for forward, _ in times), statistics.median(training for _, training in times)


def ratios(slower: Sequence[Seconds], faster: Sequence[Seconds]) -> Seconds:
    """Return the medians over the repetitions of slower / faster, for forward and training step."""
    return medians([(s[0] / f[0], s[1] / f[1]) for s, f in zip(slower, faster, strict=True)])


def added_peak(work: Callable[[], object]) -> float:
    """Return the megabytes (2**20) by which the peak of resident memory during `work` exceeds the memory before.

    On Linux the peak is the kernel's high-water mark, VmHWM, which writing 5 to /proc/self/clear_refs resets to the current
    size, so no peak is missed by sampling. `getrusage` is not sufficient there: ru_maxrss survives exec, so the child of a
    large process starts with its parent's peak, and additions below that are invisible. Other systems use `getrusage`.
    """
    gc.collect()
    if sys.platform == "linux":
        # Otherwise `work` would reuse freed memory that the allocator keeps, without being counted.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        return (_status("VmHWM") - before) / 2**10
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def in_fresh_process(script: str, arguments: Sequence[str]) -> float:
    """Run a script in a fresh process of this interpreter and return the last number that it prints."""
    return numbers_of_fresh_process(script, arguments, count=1)[0]


def numbers_of_fresh_process(script: str, arguments: Sequence[str], *, count: int) -> list[float]:
    """Run a script in a fresh process and return the last `count` numbers that it prints."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        killed = " It was killed, perhaps because it ran out of memory." if done.returncode < 0 else ""
        raise RuntimeError(f"{script} {' '.join(arguments)} ended with {done.returncode}.{killed}\n{done.stderr[-2000:]}")
    return [float(word) for word in done.stdout.split()[-count:]]


def available_megabytes() -> float:
    """Return the memory available without swapping; infinite if the system does not report it."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) / 2**10 if found else float("inf")


def machine() -> dict[str, object]:
    """Return facts of the machine on which the figures depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "implementation": implementation(CPU, torch.float32).name,
        "because": implementation(CPU, torch.float32).reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": "float32",
        "load": os.getloadavg()[0],
    }


def announce(facts: Mapping[str, object]) -> None:
    """Print the facts in a line above a table."""
    print("  ".join(f"{key}: {value}" for key, value in facts.items()))


def write_json(path: Path, facts: Mapping[str, object], results: Sequence[object], **more: object) -> None:
    """Write facts of the machine and results as JSON."""
    path.write_text(json.dumps({"machine": facts, "results": results, **more}, indent=2) + "\n")


def _status(field: str) -> int:
    """Return a field of /proc/self/status in kB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status: expected a line {field}, but it is missing; memory cannot be measured.")
    return int(found[1])
