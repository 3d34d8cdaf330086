"""Progress of work over many files: a bar on a terminal, otherwise a log line at intervals."""

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
    """Yield the items while the first process reports progress. Short work reports nothing.

    Args:
        items: items to iterate over.
        total: total number of items, including those done earlier.
        title: description of the work.
        start: number of items done earlier.
        after_seconds: time until the first line.
        every_seconds: time between lines.
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
