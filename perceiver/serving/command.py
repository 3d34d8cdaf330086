"""What the commands that serve a model have in common: address, limits, trusted packages, and errors in one line."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable
from typing import Any

from perceiver.serving.limits import Limits

HOSTS = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0", "::": "::"}
_DEFAULTS = Limits()


def add_address(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Add the options `--host` and `--port`; see `host_of` and `check_port`."""
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0 or :: serves other machines, too")
    parser.add_argument("--port", type=int, default=port, help="port, 1024 to 65535")


def add_limits(parser: argparse.ArgumentParser, *, content: str) -> None:
    """Add the options that limit what is decoded; `content` is what `--max-bytes` limits."""
    parser.add_argument("--max-bytes", type=int, default=_DEFAULTS.request_bytes, help=f"bytes of {content}")
    parser.add_argument("--max-pixels", type=int, default=_DEFAULTS.pixels, help="pixels of an image or of a video's frames")
    parser.add_argument("--max-sound-seconds", type=float, default=_DEFAULTS.sound_seconds, help="length of a recording")
    parser.add_argument("--max-text-bytes", type=int, default=_DEFAULTS.text_bytes, help="bytes or token ids of a text")


def content_limits(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `Limits` for the options of `add_limits`."""
    return {
        "request_bytes": options.max_bytes,
        "pixels": options.max_pixels,
        "sound_seconds": options.max_sound_seconds,
        "text_bytes": options.max_text_bytes,
    }


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option `--trust`."""
    parser.add_argument("--trust", nargs="*", default=[], metavar="PACKAGE", help="packages whose classes the file may name")


def run_command(command: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run a command; after an error of its options, model or libraries print one line on stderr and exit with 1."""
    try:
        command(options)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(1)


def host_of(given: str) -> str:
    """Return the address of a host that may be bound.

    Raises:
        ValueError: for any other host.
    """
    if given not in HOSTS:
        raise ValueError(f"--host: expected one of {', '.join(HOSTS)}, got {given!r:.80}.")
    return HOSTS[given]


def check_port(host: str, port: int) -> None:
    """Raise ValueError unless the port can be bound."""
    if not 1024 <= port <= 65535:
        raise ValueError(f"--port: expected 1024 to 65535, got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise ValueError(
                f"--port: cannot use {host}:{port} ({error.strerror}). Stop the program that uses it, or take another port."
            ) from None
