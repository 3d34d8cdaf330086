"""The service in LitServe's processes: HTTP processes read requests, inference workers decode, batch and predict.

An error belongs to its request alone: LitServe would answer all requests of a batch with the first error, and a body that is
not JSON with status 500. So steps return errors as values, and requests are read by `perceiver.serving.request`.
"""

# No `from __future__ import annotations`: LitServe and FastAPI read the annotations of `decode_request`.
import asyncio
import logging
import re
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Annotated, Any, cast

from fastapi import Depends, Response
from fastapi.responses import JSONResponse
from litserve import LitAPI, LitServer
from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError
from litserve.loops.simple_loops import BatchedLoop
from litserve.utils import LitAPIStatus, LoopResponseType
from starlette.exceptions import HTTPException
from starlette.requests import Request

from perceiver.serving.answers import answer, to_json
from perceiver.serving.decoding import decode, load_readers
from perceiver.serving.limits import Limits, RefusedError, out_of_time, time_limit
from perceiver.serving.models import ServedModel, load_served
from perceiver.serving.request import Parts, read_request
from perceiver.serving.schema import openapi, public_spec

log = logging.getLogger(__name__)

PREDICT = "/predict"
SPEC = "/spec"

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Loop(BatchedLoop):  # type: ignore[misc]  # LitServe is not followed by the type checker
    """Takes a batch as soon as there is a request.

    LitServe's own loop polls its queue every millisecond, also without requests, and waits for the whole batch timeout.
    """

    def get_batch_requests(
        self, lit_api: Any, request_queue: Any, transport: Any
    ) -> tuple[list[tuple[int, str, Any]], list[tuple[int, str]]]:
        """Return requests (queue, id, content), and those that waited too long."""
        taken: list[tuple[int, str, Any]] = []
        late: list[tuple[int, str]] = []
        end: float | None = None
        while len(taken) < lit_api.max_batch_size:
            try:
                if end is None:
                    item = request_queue.get(timeout=1.0)
                    end = time.monotonic() + lit_api.batch_timeout
                elif (left := end - time.monotonic()) > 0:
                    item = request_queue.get(timeout=left)
                else:
                    item = request_queue.get_nowait()
            except Empty:
                break
            except (EOFError, BrokenPipeError, ConnectionError):
                raise _StopLoopError from None  # the server is gone
            if item == _SENTINEL_VALUE:
                raise _StopLoopError
            queue, uid, begun, content = item
            kind = LoopResponseType.REGULAR
            self.put_response(transport, queue, uid, (), LitAPIStatus.START, kind)
            if time.monotonic() - begun > lit_api.request_timeout:
                late.append((queue, uid))
            else:
                taken.append((queue, uid, content))
        return taken, late


async def _read(request: Request) -> Parts:
    return await read_request(request, request.app.state.limits)


class PredictAPI(LitAPI):  # type: ignore[misc]
    """Predictions of a model.

    Args:
        path: run directory, checkpoint or ONNX file.
        limits: limits of a request.
        threads: threads of a batch.
        trust: packages whose classes a checkpoint may name.
        max_batch: most requests that are computed together.
        batch_wait: seconds to wait for further requests after the first.
    """

    def __init__(
        self,
        *,
        path: Path,
        limits: Limits,
        threads: int | None = None,
        trust: Sequence[str] = (),
        max_batch: int = 16,
        batch_wait: float = 0.0,
    ) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=batch_wait, loop=_Loop(), api_path=PREDICT)
        self.path = path
        self.limits = limits
        self.threads = threads
        self.trust = tuple(trust)
        self.model: ServedModel | None = None

    def setup(self, device: str) -> None:
        """Load the model, in each worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches all processes; the server ends its workers
        self.model = load_served(self.path, device=device, threads=self.threads, trust=self.trust)
        load_readers(self.model.spec["modalities"])

    def decode_request(self, request: Annotated[Any, Depends(_read)]) -> Any:
        """Return a prepared sample, or a RefusedError."""
        assert self.model is not None
        try:
            with time_limit(self.limits.request_seconds):
                return self.model.prepare(decode(request, self.model.spec["modalities"], self.limits))
        except Exception as error:
            return _refused(error)

    def batch(self, inputs: Any) -> Any:
        """Return the samples unchanged: `predict` collates those without an error."""
        return inputs

    def unbatch(self, output: Any) -> Any:
        """Return the responses unchanged."""
        return output

    def predict(self, x: Sequence[Any], **kwargs: Any) -> list[Any]:
        """Return a prediction or a RefusedError for each prepared sample or RefusedError."""
        assert self.model is not None
        answers = list(x)
        rows = [row for row, one in enumerate(x) if not isinstance(one, RefusedError)]
        if not rows:
            return answers
        try:
            found: list[Any] = self.model.predict([x[row] for row in rows])
        except Exception as error:
            # One of several may be at fault.
            found = [_refused(error)] if len(rows) == 1 else [self.predict([x[row]])[0] for row in rows]
        for row, one in zip(rows, found, strict=True):
            answers[row] = one
        return answers

    def encode_response(self, output: Any, **kwargs: Any) -> Response:
        """Return a prediction as an HTTP response."""
        try:
            if not isinstance(output, RefusedError):
                return Response(to_json(answer(output)), media_type="application/json")
        except Exception as error:
            output = _refused(error)
        return error_response(output)


def error_response(error: RefusedError) -> Response:
    """Return an error as an HTTP response: `{"error": message}`."""
    return Response(to_json({"error": str(error)}), status_code=error.status, media_type="application/json")


def _refused(error: Exception) -> RefusedError:
    """Return the error of a request: what is wrong with a sample for its sender, everything else for the log."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, ValueError | TypeError):
        # The only sample of a request needs no number.
        return RefusedError(re.sub(r"^sample '?0'?[,:] ", "", str(error)))
    if isinstance(error, MemoryError):
        return RefusedError("the sample needs more memory than there is. Send a smaller one.", status=413)
    log.error("a prediction failed", exc_info=error)
    return RefusedError("the prediction failed; the log of the server has the reason.", status=500)


class Guard:
    """Middleware that limits the number and the time of requests for predictions.

    Args:
        app: the application.
        limits: limits of a request.
    """

    def __init__(self, app: Callable[[_Scope, _Receive, _Send], Awaitable[None]], *, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self._running = 0

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass a request on, or respond with 503 (too many), 408 (body too slow) or 504 (response too slow)."""
        if scope["type"] != "http" or scope["path"] != PREDICT:
            await self.app(scope, receive, send)
            return
        if self._running >= self.limits.requests:
            message = f"expected at most {self.limits.requests} requests at a time. Try again later."
            await error_response(RefusedError(message, status=503))(scope, receive, send)
            return
        received = started = abandoned = False

        async def receiving() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received = received or not message.get("more_body", False)
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if not abandoned:
                started = True
                await send(message)

        task = asyncio.ensure_future(self.app(scope, receiving, sending))
        self._running += 1
        try:
            await asyncio.wait({task}, timeout=self.limits.request_seconds)
        finally:
            self._running -= 1
        if task.done() or started:
            await task
            return
        abandoned = True
        error = out_of_time(self.limits.request_seconds)
        if not received:
            task.cancel()
            error.status = 408
        # Otherwise the task goes on: LitServe forgets a request when its worker has answered.
        await error_response(error)(scope, receive, send)


def build_server(api: PredictAPI, model: ServedModel, *, device: str = "cpu", workers: int = 1) -> LitServer:
    """Return the server of an API.

    Args:
        api: the API, whose model the workers load.
        model: the same model, loaded, for its spec.
        device: `cpu`, `cuda` or `auto`.
        workers: inference workers of each device.
    """
    server = LitServer(
        api,
        accelerator=cast("Any", device),
        workers_per_device=workers,
        timeout=api.limits.request_seconds,
        fast_queue=True,
        restart_workers=True,
        middlewares=[(Guard, {"limits": api.limits})],
    )
    app = server.app
    app.state.limits = api.limits
    spec = public_spec(model.spec, limits=api.limits)
    document = openapi(model.spec, limits=api.limits)

    async def get_spec() -> Response:
        return Response(to_json(spec), media_type="application/json")

    async def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return error_response(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code, headers=error.headers)

    app.add_api_route(SPEC, get_spec, methods=["GET"])
    app.add_exception_handler(RefusedError, on_refused)
    app.add_exception_handler(HTTPException, on_http)
    app.openapi = lambda: document
    # FastAPI's pages load scripts from other hosts.
    app.router.routes[:] = [
        route for route in app.router.routes if not str(getattr(route, "path", "")).startswith(("/docs", "/redoc"))
    ]
    return server
