"""The command `perceiver-demo RUN`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from perceiver.serving.command import add_address, add_limits, add_trust, check_port, content_limits, host_of, run_command
from perceiver.serving.limits import Limits


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="perceiver-demo",
        description="Try a trained model in the browser: fill in any of its modalities, see prediction and attention.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("model", metavar="RUN", type=Path, help="run directory or checkpoint")
    add_address(made, port=7860)
    add_limits(made, content="a file")
    add_trust(made)
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
    limits = Limits(**content_limits(options))
    host = host_of(options.host)
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
    from perceiver.serving.demo.page import build_page, launch_settings

    page = build_page(load(options.model, trust=options.trust), name=options.model.resolve().name, limits=limits)
    sys.stdout.write(f"Showing {options.model} at http://{options.host}:{options.port}\n")
    sys.stdout.flush()
    page.launch(server_name=host, server_port=options.port, **launch_settings(limits))


if __name__ == "__main__":
    main()
