"""Lines from time to time where there is no terminal, nothing for what takes no time, nothing from other processes."""

import pytest

from perceiver.runtime.progress import progress


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    items = progress("abc", total=5, title="rows", start=2, after_seconds=0, every_seconds=0)
    assert list(items) == ["a", "b", "c"]
    assert capsys.readouterr().out == "rows: 3 of 5\nrows: 4 of 5\nrows: 5 of 5\n"


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress(range(3), total=3, title="rows")) == [0, 1, 2]
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(3), total=3, title="rows", after_seconds=0)) == [0, 1, 2]
    assert capsys.readouterr().out == ""
