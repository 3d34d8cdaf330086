"""Putting a SLURM job into the queue again, with a command that stands for SLURM's."""

from pathlib import Path

import pytest

from perceiver.run.processes.requeue import job_id, requeue


def test_the_job_of_an_array_is_its_own_task() -> None:
    assert job_id({"SLURM_JOB_ID": "7"}) == "7"
    assert job_id({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}) == "7_2"
    assert job_id({}) is None


@pytest.mark.parametrize(
    ("status", "message"), [(0, "job 7 was requeued"), (1, "the job 7 was not requeued, submit it again: no")]
)
def test_slurm_is_asked(
    status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho no >&2\nexit {status}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    requeue()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert message in "".join(capsys.readouterr())


def test_elsewhere_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    requeue()
    assert "submit it again" in capsys.readouterr().err
