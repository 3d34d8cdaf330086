"""A service without processes and sockets: its application, and a queue that runs LitServe's loop when a request comes."""

import asyncio
import pickle
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from litserve.callbacks import CallbackRunner

from perceiver.serving.limits import Limits
from perceiver.serving.models import ServedModel
from perceiver.serving.service import PREDICT, PredictAPI, build_server

DEFAULTS = Limits()


class _Queue(queue.Queue[Any]):
    """Requests as they are sent to a worker, which works as soon as no other request is being read."""

    def __init__(self, door: "Door") -> None:
        super().__init__()
        self.door = door

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(pickle.loads(pickle.dumps(item)))
        if self.qsize() == 1:
            asyncio.get_running_loop().call_later(self.door.delay, self.door.work)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and self.empty():
            raise EOFError  # the loop ends as it does without a server
        return super().get(block=False)


class Door:
    """`POST /predict` of a model.

    Args:
        model: the model.
        limits: limits of a request.
        max_batch: most requests of a batch.
        delay: seconds before a worker takes requests.

    Attributes:
        batches: the number of samples of each batch that the model got.
    """

    def __init__(self, model: ServedModel, *, limits: Limits = DEFAULTS, max_batch: int = 16, delay: float = 0.0) -> None:
        self.api = PredictAPI(path=Path("unused"), limits=limits, max_batch=max_batch)
        self.api.model = model
        self.delay = delay
        self.server = build_server(self.api, model)
        self.server.litapi_request_queues[PREDICT] = _Queue(self)
        self.server.app.response_queue_id = 0
        self.server.workers_setup_status = {"predict_0": "ready"}
        self.batches: list[int] = []

    def work(self) -> None:
        """Answer what is in the queue, with LitServe's loop."""
        self.api.loop.run_batched_loop(self.api, self.server.litapi_request_queues[PREDICT], self, CallbackRunner())

    def send(self, item: Any, consumer_id: Any) -> None:
        """Take an answer, as LitServe's transport does."""
        uid, (response, status, *_) = pickle.loads(pickle.dumps(item))
        waiting = self.server.response_buffer[uid]
        waiting.response = (response, status)
        waiting.event.set()

    def ask(self, *requests: Mapping[str, Any]) -> list[httpx.Response]:
        """Send requests at the same time; each has the arguments of `httpx.AsyncClient.request`."""

        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.server.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                calls = [client.request(**{"method": "POST", "url": PREDICT, **one}) for one in requests]
                return await asyncio.gather(*calls)

        return asyncio.run(all_of_them())

    def post(self, **request: Any) -> httpx.Response:
        """Send a request for a prediction."""
        return self.ask(request)[0]

    def get(self, url: str) -> httpx.Response:
        """Get a page."""
        return self.ask({"method": "GET", "url": url})[0]


def labels(responses: Sequence[httpx.Response]) -> list[str]:
    """The labels of answers."""
    return [one.json()["label"] for one in responses]
