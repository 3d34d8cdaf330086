"""From the body of a request to its parts by modality, within the limit of bytes. Runs in LitServe's HTTP processes.

Nothing is interpreted here but the boundaries of the parts: a slow parser would block the other requests of the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from perceiver.serving.limits import Limits, RefusedError

_MOST_PARTS = 256


@dataclass(frozen=True)
class File:
    """The content of an uploaded file; the file name and type that the sender states are not used."""

    content: bytes


@dataclass(frozen=True)
class Field:
    """A field of a form without a file: a text, or JSON."""

    text: str


@dataclass(frozen=True)
class Body:
    """A body of JSON, not yet parsed."""

    content: bytes


Parts = Body | dict[str, File | Field]
"""The content of a request: JSON, or the parts of a form by name."""


async def read_request(request: Request, limits: Limits) -> Parts:
    """Read the body of a request.

    Raises:
        RefusedError: 413 if it is too large, 415 if it is neither JSON nor a form, 400 if it is malformed.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise RefusedError(f"content-type: expected application/json or multipart/form-data, got {given!r:.80}.", status=415)
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > 18 or int(stated) > limits.request_bytes):
        raise _too_large(limits)
    bounded = Request(request.scope, _counted(request.receive, limits))
    try:
        if kind == "application/json":
            return Body(await bounded.body())
        return await _parts(bounded, limits)
    except ClientDisconnect:
        raise RefusedError("the body ended early: the connection was closed.") from None


async def _parts(request: Request, limits: Limits) -> dict[str, File | Field]:
    try:
        form = await request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS, max_part_size=limits.request_bytes)
    except (MultiPartException, HTTPException, KeyError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        reason = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
        raise RefusedError(f"the form is malformed: {reason!s:.200} Send multipart/form-data with a boundary.") from None
    try:
        parts: dict[str, File | Field] = {}
        for name, value in form.multi_items():
            if name in parts:
                raise RefusedError(f"{name!r:.80}: expected one part of this name, got several.")
            parts[name] = File(await value.read()) if isinstance(value, UploadFile) else Field(value)
        return parts
    finally:
        await form.close()


def _counted(receive: Callable[[], Awaitable[Any]], limits: Limits) -> Callable[[], Awaitable[Any]]:
    """Return `receive`, which raises RefusedError as soon as the body is too large."""
    received = 0

    async def counted() -> Any:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limits.request_bytes:
            raise _too_large(limits)
        return message

    return counted


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(
        f"expected a request of at most {limits.request_bytes:,} bytes. Send a smaller file, or raise the limit with "
        "--max-bytes.",
        status=413,
    )
