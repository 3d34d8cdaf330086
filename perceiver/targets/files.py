"""Raw samples for a prediction that are files: paths, or the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from perceiver.modalities.kinds import KINDS, kind_of
from perceiver.modalities.media.framing import image_formats

BINARY = bytes | bytearray


def is_file(value: Any, modality: Mapping[str, Any]) -> bool:
    """Return whether a raw value is a file: bytes, a path, or a string unless the kind takes texts or values."""
    if str(modality.get("kind")) not in KINDS and kind_of(modality).cells == "values":
        return False
    return isinstance(value, Path | BINARY) or (isinstance(value, str) and modality.get("kind") != "text")


def read_file(value: str | Path | bytes | bytearray, modality: Mapping[str, Any], *, where: str) -> Any:
    """Return the raw value in a file, decoded as in a cell of a manifest.

    Args:
        value: path of the file, relative to the working directory, or its content.
        modality: spec of the modality.
        where: name of the sample, for messages.

    Raises:
        ValueError: the file cannot be read or decoded.
        ImportError: a library that the format requires is not installed.
    """
    kind = modality.get("kind")
    what = f"{len(value)} bytes" if isinstance(value, BINARY) else f"{value!s:.200}"
    try:
        if kind in ("image", "text"):
            content = bytes(value) if isinstance(value, BINARY) else _content(Path(value))
            return content.decode() if kind == "text" else _image(content)
        return _decoded(value, modality)
    except ImportError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise ValueError(f"{where}: cannot read {what} as {kind} ({type(error).__name__}: {error}).") from error


def _content(path: Path) -> bytes:
    # Reading a pipe or a device could block forever.
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_bytes()


def _image(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=image_formats())
    image.load()
    return image


def _decoded(value: str | Path | bytes | bytearray, modality: Mapping[str, Any]) -> Any:
    # Only here does a model need the readers of data sets: they import libraries of sound and tables.
    from perceiver.data.manifest.cells import read_sample

    return read_sample(bytes(value) if isinstance(value, BINARY) else Path(value), spec=modality)
