"""Who may write to a run directory, and what an error about it reads like."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from perceiver.run.resuming.resume import Scratch
from perceiver.run.run_directory import LOCK, RunDirectory


def held_by_another_process(directory: Path) -> int:
    """Lock a run directory in a fork of this process; its id, once it holds the lock."""
    message, tell = os.pipe()
    if child := os.fork():
        os.close(tell)
        with open(message) as pipe:
            assert pipe.read(4) == "held"
        return child
    try:
        with RunDirectory(directory).locked():
            os.write(tell, b"held")
            time.sleep(60)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """A kill -9 leaves nothing behind that refuses a run."""
    first = held_by_another_process(tmp_path)
    try:
        words = f"hydra.run.dir: another run is writing to {re.escape(str(tmp_path))}"
        refused = pytest.raises(BlockingIOError, match=words)
        with refused, RunDirectory(tmp_path).locked():
            pass
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    with RunDirectory(tmp_path).locked() as directory:
        assert directory.path == tmp_path
    assert not (tmp_path / LOCK).exists()


def test_other_ranks_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with RunDirectory(tmp_path).locked() as directory:
        directory.write_metrics({"seconds": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = "hydra.run.dir: cannot write to .*file/run .*; choose another directory"
    refused = pytest.raises(NotADirectoryError, match=words)
    with refused, RunDirectory(tmp_path / "file" / "run").locked():
        pass


def test_the_hint_to_continue_can_be_typed(tmp_path: Path) -> None:
    folder = tmp_path / "my run, 1=2" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"")
    with pytest.raises(FileExistsError) as error:
        RunDirectory(folder.parent).require_unused(Scratch())
    assert f"""'ckpt_path='"'"'{tmp_path}/my run, 1=2'"'"''""" in str(error.value)
