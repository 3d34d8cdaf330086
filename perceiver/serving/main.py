"""The command `perceiver-serve RUN_OR_EXPORT`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from perceiver.serving.command import add_address, add_limits, add_trust, check_port, content_limits, host_of, run_command
from perceiver.serving.limits import Limits

_DEFAULTS = Limits()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="perceiver-serve",
        description="Serve a trained model over HTTP: POST /predict, GET /spec, /health, /openapi.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("model", metavar="RUN_OR_EXPORT", type=Path, help="run directory, checkpoint, or model.onnx")
    add_address(made, port=8000)
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device of a checkpoint's model")
    made.add_argument("--workers", type=int, default=1, help="processes per device that predict")
    made.add_argument("--http-workers", type=int, default=1, help="processes that read requests")
    made.add_argument("--threads", type=int, default=None, help="threads of each worker; default: cores / workers")
    made.add_argument("--max-batch", type=int, default=16, help="most requests that are computed together")
    made.add_argument("--batch-wait", type=float, default=0.0, help="seconds to wait for further requests of a batch")
    add_limits(made, content="a request")
    made.add_argument("--max-seconds", type=float, default=_DEFAULTS.request_seconds, help="time of a request")
    made.add_argument("--max-requests", type=int, default=_DEFAULTS.requests, help="requests at a time per HTTP process")
    add_trust(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; exit with 1 and one line on stderr after an error."""
    run_command(serve, parser().parse_args(arguments))


def serve(options: argparse.Namespace) -> None:
    """Check the options and the model, and serve until interrupted.

    Raises:
        ValueError, OSError: for options, a model or a port that cannot be used.
        ImportError: if LitServe or a library of the model is not installed.
    """
    limits = Limits(
        **content_limits(options),
        request_seconds=options.max_seconds,
        requests=options.max_requests,
    )
    host = host_of(options.host)
    for name in ("workers", "http_workers", "max_batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}.")
    if not 0 <= options.batch_wait < limits.request_seconds:
        raise ValueError(f"--batch-wait: expected 0 to less than --max-seconds, got {options.batch_wait}.")
    check_port(host, options.port)
    try:
        import litserve  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "perceiver-serve needs LitServe: pip install 'perceiver-multimodal[serve]' (in a clone: pip install -e "
            "'.[serve]')."
        ) from error
    from perceiver.serving.models import ONNX, load_served
    from perceiver.serving.service import PredictAPI, build_server

    model = load_served(options.model, trust=options.trust)  # errors come here, in one line, before any process starts
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    api = PredictAPI(
        path=options.model.resolve(),
        limits=limits,
        threads=threads,
        trust=options.trust,
        max_batch=options.max_batch,
        batch_wait=options.batch_wait,
    )
    device = "cpu" if options.model.suffix == ONNX else options.device
    server = build_server(api, model, device=device, workers=options.workers)
    del model
    sys.stdout.write(f"Serving {options.model} at http://{options.host}:{options.port}: POST /predict, GET /spec, /health\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, _interrupt_of(os.getpid()))
    server.run(
        host=host,
        port=options.port,
        num_api_servers=options.http_workers,
        log_level="warning",
        generate_client_file=False,
    )


def _interrupt_of(server: int) -> Callable[[int, FrameType | None], None]:
    """Return a handler that interrupts the process `server`, and ends the HTTP processes, which inherit it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # LitServe ends its processes after an interrupt, and would leave them behind otherwise.
        raise KeyboardInterrupt if os.getpid() == server else SystemExit

    return interrupt


if __name__ == "__main__":
    main()
