"""Progress of long work: a bar on a terminal, otherwise a line at intervals."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from perceiver.runtime.process_rank import process_rank

T = TypeVar("T")

_BAR_SECONDS = 1.0
"""A bar on a terminal appears after this time."""


def progress(
    items: Iterable[T],
    *,
    total: int,
    title: str,
    unit: str = "",
    start: int = 0,
    after_seconds: float = 5.0,
    every_seconds: float = 10.0,
) -> Iterator[T]:
    """Yield the items while the first process reports progress. Short work reports nothing.

    Args:
        items: items to iterate over.
        total: total number of items, including those done earlier.
        title: description of the work.
        unit: what an item is, in the plural.
        start: number of items done earlier.
        after_seconds: time until the first line.
        every_seconds: time between lines.
    """
    shown = reporting(title, total=total, unit=unit, start=start, after_seconds=after_seconds, every_seconds=every_seconds)
    with shown as report:
        for count, item in enumerate(items, start=start + 1):
            yield item
            report.reach(count)


class Progress:
    """Number of items done and their rate, without output; see `reporting`.

    Args:
        title: description of the work.
        total: total number of items, including those done earlier; None: unknown.
        unit: what an item is, in the plural.
        start: number of items done earlier.
    """

    def __init__(self, title: str, *, total: int | None, unit: str, start: int) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.start = self.done = start
        self._began = time.monotonic()

    def begin(self) -> None:
        """Start the clock again, after preparations."""
        self._began = time.monotonic()

    def reach(self, done: int) -> None:
        """Report the number of items done, including those done earlier."""
        self.done = done

    @property
    def rate(self) -> float:
        """Items per second in this process's time; 0 before the first."""
        seconds = time.monotonic() - self._began
        return (self.done - self.start) / seconds if seconds > 0 else 0.0

    @property
    def pace(self) -> str:
        """Rate and time left as text; empty before the first item."""
        rate = self.rate
        if rate <= 0:
            return ""
        text = f"{rate:,.0f} {self.unit or 'items'}/s" if rate >= 10 else f"{rate:.2g} {self.unit or 'items'}/s"
        return text if self.total is None else f"{text}, {_duration((self.total - self.done) / rate)} left"


class _Lines(Progress):
    """Prints a line at intervals."""

    def __init__(self, title: str, *, after_seconds: float, every_seconds: float, **facts: Any) -> None:
        super().__init__(title, **facts)
        self._every = every_seconds
        self._due = time.monotonic() + after_seconds

    def reach(self, done: int) -> None:
        """See `Progress`."""
        super().reach(done)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            of = "" if self.total is None else f" of {self.total:,}"
            unit = f" {self.unit}" if self.unit else ""
            pace = f", {self.pace}" if self.unit and self.pace else ""
            sys.stdout.write(f"{self.title}: {done:,}{of}{unit}{pace}\n")
            sys.stdout.flush()


class _Bar(Progress):
    """Moves a bar of `rich`, which appears once the work has taken `after_seconds`: short work does not flicker."""

    def __init__(self, title: str, *, bars: Any, after_seconds: float, **facts: Any) -> None:
        super().__init__(title, **facts)
        self._bars = bars
        self._due: float | None = time.monotonic() + after_seconds
        self._task = bars.add_task(title, total=self.total, completed=self.start, pace="")

    def reach(self, done: int) -> None:
        """See `Progress`."""
        super().reach(done)
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            self._bars.start()
        self._bars.update(self._task, completed=done, pace=self.pace)


@contextmanager
def reporting(
    title: str,
    *,
    total: int | None,
    unit: str = "",
    start: int = 0,
    after_seconds: float = 5.0,
    every_seconds: float = 10.0,
) -> Iterator[Progress]:
    """Yield what takes the number of items done; the first process shows it, with the rate and the time left.

    Args:
        title: description of the work.
        total: total number of items, including those done earlier; None: unknown.
        unit: what an item is, in the plural: "rows".
        start: number of items done earlier.
        after_seconds: time until the first line where stdout is no terminal.
        every_seconds: time between lines.

    Examples:
        >>> with reporting("reading", total=3, unit="rows") as report:
        ...     report.reach(2)
        >>> report.done
        2
    """
    facts: dict[str, Any] = {"total": total, "unit": unit, "start": start}
    if process_rank() != 0:
        yield Progress(title, **facts)
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
        # The library's own console may have been made where output was no terminal.
        bars = Bars(*columns, transient=True, console=Console())
        try:
            yield _Bar(title, bars=bars, after_seconds=min(after_seconds, _BAR_SECONDS), **facts)
        finally:
            bars.stop()
    else:
        yield _Lines(title, after_seconds=after_seconds, every_seconds=every_seconds, **facts)


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units: 42 s, 3 min 10 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
