"""The command `perceiver-demo RUN`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perceiver.serving.limits import Limits
from perceiver.serving.main import HOSTS, check_port, run_command


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="perceiver-demo",
        description="Try a trained model in the browser: fill in any of its modalities, see prediction and attention.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("model", metavar="RUN", type=Path, help="run directory or checkpoint")
    made.add_argument("--host", default="127.0.0.1", choices=list(HOSTS), help="address; 0.0.0.0 serves other machines, too")
    made.add_argument("--port", type=int, default=7860, help="port, 1024 to 65535")
    made.add_argument("--max-bytes", type=int, default=Limits().request_bytes, help="bytes of a file")
    made.add_argument("--max-pixels", type=int, default=Limits().pixels, help="pixels of an image, or of a video's frames")
    made.add_argument("--max-sound-seconds", type=float, default=Limits().sound_seconds, help="length of a recording")
    made.add_argument("--trust", nargs="*", default=[], metavar="PACKAGE", help="packages whose classes the file may name")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the page until interrupted; exit with 1 and one line on stderr after an error."""
    run_command(show, parser().parse_args(arguments))


def show(options: argparse.Namespace) -> None:
    """Check the options and the model, and show the page until interrupted.

    Raises:
        ValueError, OSError: for options, a model or a port that cannot be used.
        ImportError: if Gradio is not installed.
    """
    limits = Limits(request_bytes=options.max_bytes, pixels=options.max_pixels, sound_seconds=options.max_sound_seconds)
    host = HOSTS[options.host]
    check_port(host, options.port)
    if options.model.suffix == ".onnx":
        raise ValueError(f"{options.model}: expected a run directory or checkpoint; exports have no attention to show.")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "perceiver-demo needs Gradio: pip install 'perceiver-multimodal[demo]' (in a clone: pip install -e '.[demo]')."
        ) from error
    from perceiver.checkpoints.file import load
    from perceiver.demo.page import build_page, launch_settings

    page = build_page(load(options.model, trust=options.trust), name=options.model.resolve().name, limits=limits)
    sys.stdout.write(f"Showing {options.model} at http://{options.host}:{options.port}\n")
    sys.stdout.flush()
    page.launch(server_name=host, server_port=options.port, **launch_settings(limits))


if __name__ == "__main__":
    main()
