"""Progress of work that is done once over many files: a bar on a terminal, else a line from time to time."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perceiver.runtime.process_rank import process_rank

T = TypeVar("T")


def progress(
    items: Iterable[T], *, total: int, title: str, start: int = 0, after_seconds: float = 5.0, every_seconds: float = 10.0
) -> Iterator[T]:
    """The items, one after another, while the first process tells how many there were. What takes no time says nothing.

    Args:
        items: what is waited for.
        total: how many there will be, those done earlier included.
        title: what is done to what.
        start: how many were done earlier.
        after_seconds: when the first line is due.
        every_seconds: how far lines are apart.
    """
    if process_rank() != 0:
        yield from items
    elif sys.stdout.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=start)
            for item in items:
                yield item
                bar.advance(task)
    else:
        due = time.monotonic() + after_seconds
        for count, item in enumerate(items, start=start + 1):
            yield item
            if time.monotonic() >= due:
                due = time.monotonic() + every_seconds
                sys.stdout.write(f"{title}: {count:,} of {total:,}\n")
                sys.stdout.flush()
