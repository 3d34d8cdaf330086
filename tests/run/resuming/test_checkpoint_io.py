"""Lightning checkpoints on a disk that fills up."""

import os
import pickle
import re
import resource
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from perceiver.run.resuming.checkpoint_io import AtomicCheckpointIO, require_disk_space
from perceiver.runtime.files import DiskFullError

Usage = namedtuple("Usage", "total used free")


def test_saves_and_loads(tmp_path: Path) -> None:
    plugin = AtomicCheckpointIO()
    plugin.save_checkpoint({"state_dict": {"a": torch.arange(3)}}, tmp_path / "checkpoints" / "last.ckpt")
    loaded = plugin.load_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert loaded["state_dict"]["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]


class Hostile:
    """Runs a function when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (os.environ["HOSTILE_DIRECTORY"],))


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_DIRECTORY", str(tmp_path / "made"))
    torch.save({"state_dict": {}, "callbacks": Hostile()}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "made").exists()


def test_a_real_write_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: the same code path from the operating system up."""
    plugin = AtomicCheckpointIO()
    path = tmp_path / "last.ckpt"
    plugin.save_checkpoint({"epoch": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskFullError, match=f"^no space left while writing {re.escape(str(path))}: failed after"):
            plugin.save_checkpoint({"epoch": 2, "weights": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert plugin.load_checkpoint(path, weights_only=True) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_too_small_a_disk_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1000, 1000, bias=False)
    require_disk_space(tmp_path / "not" / "there" / "yet", model)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 10**9 - 20_000_000, 20_000_000))
    with pytest.raises(DiskFullError, match=r"48\.0 MB are needed \(4 files of 12\.0 MB\), 20\.0 MB are free"):
        require_disk_space(tmp_path, model)
