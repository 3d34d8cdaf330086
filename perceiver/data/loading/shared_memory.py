"""Batches of loader processes in shared memory: if it is exhausted, a run ends with one clear error instead of waiting.

PyTorch moves a batch to shared memory in a background thread of the loader process. An error there loses the batch, and the
training process waits for it for ever. So the batch is moved before that, where errors reach the training process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from perceiver.samples.batch import Batch

LONGEST_WAIT_SECONDS = 3600
"""Time after which a training process gives up waiting for a batch: a loader process hangs or lost the batch."""

_PLACE = Path("/dev/shm")
_PREFETCHED = 2  # batches per loader process, the default of DataLoader


class SharedMemoryError(OSError):
    """A batch does not fit into shared memory; the message states how much is free and how to do without it.

    A DataLoader adds tracebacks to the messages of its workers' errors; this class keeps the original message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class InSharedMemory:
    """A collate function whose batches are in shared memory if it is called in a loader process.

    Args:
        collate: the collate function.
    """

    def __init__(self, collate: Callable[[Any], Batch]) -> None:
        self.collate = collate

    def __call__(self, read: Any) -> Batch:
        """Return the batch.

        Raises:
            SharedMemoryError: in a loader process, if shared memory or open files are exhausted.
        """
        batch = self.collate(read)
        worker = get_worker_info()
        if worker is None:
            return batch
        try:
            return batch.share_memory()
        except RuntimeError as error:
            raise SharedMemoryError(_exhausted(error, size=batch.num_bytes, num_workers=worker.num_workers)) from error


def waiting(num_workers: int) -> float:
    """Return the `timeout` of a DataLoader."""
    return LONGEST_WAIT_SECONDS if num_workers else 0


def explained(message: str) -> str | None:
    """Return what a DataLoader's error about its processes means and how to fix it; None for another error."""
    if "DataLoader worker" in message and "Bus error" in message:
        return f"data.num_workers: a loader process was killed, since {_full()}. {_REMEDY}"
    if "DataLoader worker" in message and "Killed" in message:
        return (
            "data.num_workers: a loader process was killed, most likely because the machine ran out of memory. Lower "
            "data.num_workers or data.batch_size."
        )
    if "DataLoader timed out" in message:
        return (
            f"data.num_workers: no batch came from the loader processes within {LONGEST_WAIT_SECONDS:,} seconds; one of "
            "them hangs, or lost its batch. Set data.num_workers=0 to see where."
        )
    return None


def cannot_start() -> str:
    """Return the message for shared memory that is too full to start loader processes."""
    return f"data.num_workers: loader processes cannot be started, since {_full()}. {_REMEDY}"


_REMEDY = (
    "Set data.num_workers=0, lower data.batch_size, or enlarge it (mount -o remount,size=8G /dev/shm; in Docker "
    "--shm-size=8g)."
)


def _exhausted(error: RuntimeError, *, size: int, num_workers: int) -> str:
    reason = " ".join(str(error).split()).rpartition(": ")[2][:120]
    start = f"data.num_workers={num_workers}: a loader process cannot put a batch of {size:,} bytes into shared memory"
    if "Too many open files" in reason:
        return f"{start} ({reason}). Raise the limit (ulimit -n 65536), or set data.num_workers=0."
    most = _PREFETCHED * num_workers
    return f"{start} ({reason}): {_state()}, and up to {most} batches, {most * size:,} bytes, wait in it. {_REMEDY}"


def _full() -> str:
    return f"shared memory is full ({_state()})"


def _state() -> str:
    try:
        disk = shutil.disk_usage(_PLACE)
    except OSError:
        return os.fspath(_PLACE)
    return f"{_PLACE} has {disk.free:,} of {disk.total:,} bytes free"
