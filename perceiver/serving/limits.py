"""Limits of a request, and the error of a request that is refused."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import FrameType


class RefusedError(ValueError):
    """A refused request; the message is for its sender.

    Args:
        message: what was expected, what came, and how to fix it.
        status: status code of HTTP, 4xx; 503 or 504 if the service lacks capacity or time.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request.

    Args:
        request_bytes: bytes of the body.
        pixels: pixels of an image, or of all frames that a video keeps.
        sound_seconds: length of a recording; a model that cuts recordings to a shorter length takes longer ones.
        text_bytes: bytes of a text in UTF-8, or number of its ids; a model that cuts texts to fewer ids takes longer ones.
        request_seconds: time from the head of a request to its answer.
        requests: requests that are received, wait or are computed at a time, in each HTTP process.

    Examples:
        >>> Limits(pixels=1_000_000).request_bytes
        16777216
    """

    request_bytes: int = 16 * 2**20
    pixels: int = 50_000_000
    sound_seconds: float = 120.0
    text_bytes: int = 2**16
    request_seconds: float = 30.0
    requests: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name}: expected a positive number, got {value}.")


_AGAIN = 0.05  # seconds


class _OutOfTime(BaseException):
    """Raised by the timer. Not an Exception, because readers of files turn these into errors of the file."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise RefusedError, status 504, if the body takes longer; between operations of Python, not within one in C.

    Does nothing outside the main thread, which alone receives signals, and on systems without timers.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if _imports(frame):
            # An interrupted import would leave a module that fails from then on.
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _OutOfTime:
        raise out_of_time(seconds) from None
    finally:
        signal.signal(signal.SIGALRM, before)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def out_of_time(seconds: float) -> RefusedError:
    """Return the error of a request that takes too long."""
    return RefusedError(
        f"expected a request that takes at most {seconds:g} seconds, and stopped it. Send a smaller sample, or raise the "
        "limit with --max-seconds.",
        status=504,
    )
