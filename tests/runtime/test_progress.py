"""Lines from time to time where there is no terminal, nothing for what takes no time, nothing from other processes."""

import io

import pytest
import rich

from perceiver.runtime.progress import _duration, progress, reporting


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    items = progress("abc", total=5, title="rows", start=2, after_seconds=0, every_seconds=0)
    assert list(items) == ["a", "b", "c"]
    assert capsys.readouterr().out == "rows: 3 of 5\nrows: 4 of 5\nrows: 5 of 5\n"


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress(range(3), total=3, title="rows")) == [0, 1, 2]
    monkeypatch.setenv("RANK", "1")
    assert list(progress(range(3), total=3, title="rows", after_seconds=0)) == [0, 1, 2]
    assert capsys.readouterr().out == ""


def test_pace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate and time left, of what this process did."""
    now = [100.0]
    monkeypatch.setattr("perceiver.runtime.progress.time.monotonic", lambda: now[0])
    with reporting("run", total=100_000, unit="rows", start=10_000, after_seconds=5, every_seconds=60) as report:
        now[0] += 1000
        report.begin()
        for done, seconds in ((10_500, 4), (12_000, 6), (13_000, 1)):
            now[0] += seconds
            report.reach(done)
    assert capsys.readouterr().out == "run: 10,500 of 100,000 rows, 125 rows/s, 11 min 56 s left\n"
    assert report.rate == pytest.approx(3000 / 11)
    assert (_duration(59.4), _duration(3600), _duration(100_000)) == ("59 s", "1 h 0 min", "27 h 46 min")


def test_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; short work shows none, and long work clears its bar away."""
    rich.get_console()  # not made on a terminal
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress(range(3), total=3, title="short")) == [0, 1, 2]
    assert terminal.getvalue() == ""
    assert list(progress(range(3), total=3, title="long", unit="rows", after_seconds=0)) == [0, 1, 2]
    assert "long" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")
