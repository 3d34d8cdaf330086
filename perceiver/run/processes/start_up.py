"""Ctrl+C while a run starts: modules are imported for seconds, and an exception in them is printed or even suppressed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Context in which Ctrl+C ends this process at once, without a traceback, with exit status 130.

    Only for a time in which there is nothing to clean up. Without effect in other threads than the main one, and where
    SIGINT does not raise KeyboardInterrupt, as in background jobs of a shell.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _exit:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def raise_interrupts() -> None:
    """End the effect of an enclosing `quiet_interrupt`: from now on Ctrl+C raises KeyboardInterrupt."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
