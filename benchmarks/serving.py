"""A server under load, on this machine only: throughput against one request at a time, malformed requests among good ones.

    python benchmarks/serving.py RUN_OR_EXPORT [--requests 10000] [--clients 8] [-- OPTIONS_OF_PERCEIVER_SERVE]

Starts `perceiver-serve` on 127.0.0.1 and sends it images of the MNIST test split as PNG files in forms, each client over one
connection, the next request after the answer. First one client and all clients in turn, `--rounds` times: requests per
second, and quantiles of the latency. Then `--requests` requests by all clients, every tenth malformed: each answer must have
the right status and, for good requests, the label that the model predicts in this process. Memory of all processes is
measured at the beginning, in the middle and at the end. Stops after `--seconds`, and after the given number of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from measure import announce, machine
from numpy.typing import NDArray
from PIL import Image

from perceiver.serving.models import load_served

HOST = "127.0.0.1"
MALFORMED = (
    (b'{"image": {"bytes": "AAAA"}}', "application/json", 400),
    (b'{"image": "/etc/passwd"}', "application/json", 400),
    (b"{", "application/json", 400),
    (b"[" * 10_000, "application/json", 400),
    (b'{"sound": [1]}', "application/json", 400),
    (b'{"image": [[1, 2], [3]]}', "application/json", 400),
    (b"no form", "multipart/form-data", 400),
    (b"image=1", "application/x-www-form-urlencoded", 415),
)


@dataclass
class Load:
    """What clients measured: seconds of each request, and answers that were wrong."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    wall: float = 0.0
    sent: int = 0

    def __str__(self) -> str:
        p50, p99 = (1e3 * float(np.quantile(self.seconds, share)) for share in (0.5, 0.99))
        return f"{len(self.seconds) / self.wall:7.1f} requests/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"


@dataclass(frozen=True)
class Request:
    """A request as sent, the expected status, and the expected label."""

    content: bytes
    status: int
    label: str | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, options_of_server = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-seconds", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args(own)
    end = time.monotonic() + options.seconds
    announce(machine())
    good = _good(options.model, options.images)
    bad = [Request(_request(body, kind), status, None) for body, kind, status in MALFORMED]
    port = _free_port()
    command = [sys.executable, "-m", "perceiver.serving.main", str(options.model), "--port", str(port), *options_of_server]
    server = subprocess.Popen(command)
    try:
        _wait(port, server)
        asyncio.run(_load(port, good[:50], clients=options.clients, seconds=1.0))  # warm up
        alone, together = [], []
        for _ in range(options.rounds):
            alone.append(asyncio.run(_load(port, good, clients=1, seconds=options.round_seconds)))
            together.append(asyncio.run(_load(port, good, clients=options.clients, seconds=options.round_seconds)))
        for name, loads in (("1 client", alone), (f"{options.clients} clients", together)):
            print(f"{name:>10}: {_all(loads)}   wrong: {sum(len(one.wrong) for one in loads)}")
        ratios = [_rate(many) / _rate(one) for one, many in zip(alone, together, strict=True)]
        print(f"     ratio: {statistics.median(ratios):.2f} (rounds: {', '.join(f'{one:.2f}' for one in ratios)})")

        numbers = range(options.requests)
        mixed = [bad[number // 10 % len(bad)] if number % 10 == 9 else good[number % len(good)] for number in numbers]
        memory, workers = [_memory(server.pid)], _processes(server.pid)
        for half in (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]):
            load = asyncio.run(_load(port, half, clients=options.clients, seconds=max(0, end - time.monotonic()), once=True))
            memory.append(_memory(server.pid))
            lost, left = load.sent - len(load.seconds), len(half) - load.sent
            found = f"sent {load.sent:,}   lost {lost}   wrong {len(load.wrong)} {load.wrong[:3] or ''}"
            print(f"     mixed: {load}   {found}" + (f"   NOT sent before --seconds: {left:,}" if left else ""))
        same = "the same" if _processes(server.pid) == workers else "NOT the same"
        print(f"    memory: {', '.join(f'{one / 2**20:.0f} MiB' for one in memory)}   processes: {same} {len(workers)}")
    finally:
        server.terminate()
        server.wait(timeout=60)


def _good(model: Path, count: int) -> list[Request]:
    """Requests with images of the test split, and what the model predicts for each alone."""
    root = Path(os.environ.get("PERCEIVER_DATA", "data")) / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    pixels = np.frombuffer(root.read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    served = load_served(model, threads=1)
    labels = [served.predict([served.prepare({"image": Image.fromarray(one)})])[0].label for one in pixels]
    return [Request(_request(*_form(one)), 200, label) for one, label in zip(pixels, labels, strict=True)]


def _form(pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    head = b'--BOUNDARY\r\nContent-Disposition: form-data; name="image"; filename="digit.png"\r\n\r\n'
    return head + file.getvalue() + b"\r\n--BOUNDARY--\r\n", "multipart/form-data; boundary=BOUNDARY"


def _request(body: bytes, kind: str) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _load(port: int, requests: Sequence[Request], *, clients: int, seconds: float, once: bool = False) -> Load:
    """Send requests for some seconds; with `once`, each once."""
    load, begun = Load(), time.monotonic()
    numbers = iter(range(len(requests) if once else 10**9))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for number in numbers:
            request = requests[number % len(requests)]
            start = time.perf_counter()
            writer.write(request.content)
            load.sent += 1
            status, body = await _response(reader)
            load.seconds.append(time.perf_counter() - start)
            answer = json.loads(body)
            if status != request.status or (answer.get("label") if status == 200 else None) != request.label:
                load.wrong.append(f"{status}, expected {request.status}: {body[:100]!r}")
            if time.monotonic() - begun > seconds:
                break
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.wall = time.monotonic() - begun
    return load


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


def _all(loads: Sequence[Load]) -> Load:
    seconds = [one for load in loads for one in load.seconds]
    return Load(seconds=seconds, wall=sum(load.wall for load in loads))


def _rate(load: Load) -> float:
    return len(load.seconds) / load.wall


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server ended")
        try:
            with socket.create_connection((HOST, port), timeout=5) as connection:
                connection.sendall(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                if b" 200 " in connection.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server does not become ready")


def _processes(root: int) -> list[int]:
    """The server's processes."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return sorted(found)


def _memory(root: int) -> int:
    """Proportional memory of the server's processes, in bytes."""
    total = 0
    for pid in _processes(root):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
