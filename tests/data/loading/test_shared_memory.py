"""Shared memory of loader processes: if it is exhausted, the error says so, and nothing waits for a lost batch."""

import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from perceiver.data.loading.shared_memory import InSharedMemory, SharedMemoryError, cannot_start, explained, waiting
from perceiver.run.errors import one_line
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate


class Rooms(Dataset[Sample]):
    """Images; loader processes may write files of at most `room` bytes, and shared memory consists of files."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        assert get_worker_info() is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.RLIM_INFINITY))
        return Sample(inputs={"image": torch.full((1, 64, 64), float(index))}, id=str(index))


def loader(room: int) -> Any:
    collate = Collate(modalities={"image": {"kind": "image"}})
    return DataLoader(Rooms(room), batch_size=2, num_workers=1, collate_fn=InSharedMemory(collate), timeout=waiting(1))


def test_batches_arrive() -> None:
    first, second = loader(2**20)
    assert first.inputs["image"].is_shared()
    assert second.inputs["image"][:, 0, 0, 0].tolist() == [2.0, 3.0]


def test_exhausted_shared_memory_is_one_error() -> None:
    """In PyTorch, the batch is lost in the loader process, and this process would wait for ever."""
    with pytest.raises(SharedMemoryError) as caught:
        next(iter(loader(4096)))
    message = one_line(caught.value)
    assert message.startswith("data.num_workers=1: a loader process cannot put a batch of 32,768 bytes into shared memory (")
    assert "up to 2 batches, 65,536 bytes, wait in it. Set data.num_workers=0" in message
    assert "Traceback" not in message


def test_without_loader_processes_nothing_is_shared() -> None:
    collate = InSharedMemory(Collate(modalities={"image": {"kind": "image"}}))
    batch = collate([Sample(inputs={"image": torch.zeros(1, 2, 2)})])
    assert not batch.inputs["image"].is_shared()
    assert waiting(0) == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible …",
            r"since shared memory is full \(/dev/shm has",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "ran out of memory"),
        ("DataLoader timed out after 3600 seconds", "no batch came .* within 3,600 seconds"),
    ],
)
def test_errors_of_the_loader_are_explained(text: str, meant: str) -> None:
    outer = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    outer.__cause__ = RuntimeError(text)
    for error in (RuntimeError(text), outer):
        if "timed out" not in text or error is not outer:
            assert re.search(meant, one_line(error)), one_line(error)
    assert explained("another error") is None


def test_a_batch_knows_its_size() -> None:
    inputs: dict[str, Any] = {"a": torch.zeros(2, 3), "b": {"x": torch.zeros(2, dtype=torch.int64)}}
    assert Batch(inputs=inputs, masks={"a": torch.ones(2, dtype=torch.bool)}, target=torch.zeros(2)).num_bytes == 50


def test_processes_that_cannot_start() -> None:
    assert cannot_start().startswith("data.num_workers: loader processes cannot be started, since shared memory is full (")
    assert waiting(1) == waiting(4) == 3600


def test_too_many_open_files_have_their_own_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And places whose size cannot be found are named alone."""
    collate = InSharedMemory(lambda read: read)
    batch = Batch(inputs={"a": torch.zeros(2, 3)})
    for message, place, meant in (
        ("unable to open: Too many open files (24)", "/dev/shm", r"Too many open files \(24\)\)\. Raise the limit \(ulimit"),
        (
            "unable to write",
            "/nowhere",
            r"bytes into shared memory \(unable to write\): /nowhere, and up to 6 batches, 144 bytes",
        ),
    ):
        monkeypatch.setattr("perceiver.data.loading.shared_memory._PLACE", Path(place))
        monkeypatch.setattr("perceiver.data.loading.shared_memory.get_worker_info", lambda: SimpleNamespace(num_workers=3))
        monkeypatch.setattr(Batch, "share_memory", mock.Mock(side_effect=RuntimeError(message)))
        with pytest.raises(SharedMemoryError, match=meant):
            collate(batch)


@pytest.mark.parametrize("text", ["DataLoader worker exited", "Bus error", "Killed", "timed out"])
def test_other_errors_are_not_explained(text: str) -> None:
    assert explained(text) is None
