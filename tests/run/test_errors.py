"""Errors in one line."""

import errno
import gc
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from perceiver.run.errors import interrupted, one_line, report_error, suggestion


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_the_type_is_said_where_the_message_needs_it() -> None:
    assert one_line(ValueError("data.root: not\n  there")) == "data.root: not there"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(RuntimeError()) == "RuntimeError"


def test_a_full_disk_is_put_into_words() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "runs/metrics.csv")
    assert one_line(error).startswith("no space left on the device while writing runs/metrics.csv. Free some")


def test_loader_processes_that_cannot_start_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    monkeypatch.setattr("_multiprocessing.SemLock", full)
    try:
        iter(DataLoader([1], num_workers=1))  # type: ignore[arg-type]
    except OSError as error:
        report_error(error, directory=tmp_path)
    gc.collect()
    assert capsys.readouterr().err.startswith("error: data.num_workers: loader processes cannot be started, since shared")
    assert complaints == []


def test_the_traceback_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_error(raised(ValueError("wrong")), directory=tmp_path)
    assert capsys.readouterr().err == f"error: wrong\nfull traceback: {tmp_path}/error.log\n"
    assert "in raised" in (tmp_path / "error.log").read_text()


def test_the_traceback_can_be_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEIVER_FULL_ERROR", "1")
    report_error(raised(ValueError("wrong")), directory=None)
    assert "Traceback" in capsys.readouterr().err


def test_an_unwritable_log_is_no_second_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    report_error(raised(ValueError("wrong")), directory=tmp_path / "file")
    assert "HYDRA_FULL_ERROR=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Could not find 'optimizer/adam'", "Did you mean optimizer=adamw?"),
        ("Could not find 'optimizer/xyz'", ""),
        ("Could not override 'model.encoder.num_latent'.", "Did you mean model.encoder.num_latents?"),
        ("Could not override 'optimiser'.", "Did you mean optimizer?"),
        ("something else", ""),
    ],
)
def test_suggestions(message: str, hint: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert suggestion(message, repository / "conf") == hint


def test_an_interrupt_says_how_to_continue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path)
    assert "no checkpoint" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    interrupted(tmp_path)
    assert f"ckpt_path={tmp_path}" in capsys.readouterr().err
