"""Optical flow in files: Middlebury's .flo, PFM, and the 16-bit PNG of KITTI, recognised by their content."""

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceiver.runtime.files import atomic_write

SUFFIXES = (".flo", ".pfm", ".png")
"""Suffixes of flow files, in any case."""

MAGIC = 202021.25
"""Magic number at the start of a .flo file, as float32."""

UNKNOWN = 1e9
"""Larger flow is unknown."""

_FLO = struct.pack("<f", MAGIC)
_PNG = b"\x89PNG\r\n\x1a\n"
_PFM = re.compile(rb"(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([+-]?\d{1,20}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,3})?)[ \t\r]*\n")
_HEAD_BYTES = 128


class FlowFileError(ValueError):
    """A flow file is damaged or does not match its frames; the message names it."""


def is_flow(file: Path | io.BytesIO) -> bool:
    """Return whether a file is a flow file by its content."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    else:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    return head[:4] == _FLO or _PFM.match(head) is not None or _is_deep_color(head)


def read_flow(file: Any) -> NDArray[np.float32]:
    """Read a flow file as `(2, H, W)` in pixels to the right and down; unknown flow is NaN, or larger than 1e9.

    - .flo, from the Middlebury flow data sets' README: a magic number, width and height as 32-bit integers, then both
      components of each pixel, row by row, as 32-bit floating-point numbers; all little-endian.
    - PFM, from Paul Debevec's HDR tools: rows of floating-point colours from the bottom to the top. Red is the flow to the
      right, green the flow down; blue is not used.
    - PNG, from the development kit of KITTI 2015: colours of 16 bits; red and green are flow * 64 + 2**15, and blue is 0
      where flow is unknown.

    Args:
        file: a path, or the content of a file with `read_bytes()`.

    Raises:
        FlowFileError: the file has none of these formats, or is truncated or damaged.
        FileNotFoundError: the file does not exist.
    """
    content = file.read_bytes()
    if content[:4] == _FLO:
        return _middlebury(content, file)
    if found := _PFM.match(content):
        return _pfm(content, found, file)
    if content[:8] == _PNG:
        return _kitti(content, file)
    raise FlowFileError(
        f"{file}: expected a .flo file, which begins with the number {MAGIC} in 32 bits, a PFM file, or a PNG file as in "
        "KITTI."
    )


def read_flow_channels(file: Any, *, channels: int) -> NDArray[np.float32]:
    """Read a flow file as an input `(channels, H, W)`: the flow, 0 where it is unknown.

    With 3 channels, the third is 1 where flow is known, else 0. Errors as in `read_flow`.
    """
    flow = read_flow(file)
    known: NDArray[np.bool_] = np.all(np.abs(flow) < UNKNOWN, axis=0)  # false for NaN, too
    flow = np.where(known, flow, np.float32(0))
    return np.concatenate([flow, known[None].astype(np.float32)]) if channels == 3 else flow


def write_flow(path: Path, flow: NDArray[Any]) -> None:
    """Write `(2, H, W)` as a .flo file, as `read_flow` expects."""
    height, width = flow.shape[1:]
    values = np.ascontiguousarray(np.moveaxis(flow, 0, -1), dtype="<f4")
    header = np.array(MAGIC, "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    with atomic_write(path) as file:
        file.write(header + values.tobytes())


def _middlebury(content: bytes, path: object) -> NDArray[np.float32]:
    width, height = struct.unpack("<2i", content[4:12].ljust(8, b"\0"))
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise FlowFileError(
            f"{path}: expected {12 + 8 * width * height:,} bytes for a flow of {height} x {width} pixels, as stated in its "
            f"header, got {len(content):,}."
        )
    values = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)


def _pfm(content: bytes, found: re.Match[bytes], path: object) -> NDArray[np.float32]:
    if found.group(1) != b"PF":
        raise FlowFileError(f"{path}: expected a PFM file of three channels, which begins with PF, got one channel, Pf.")
    width, height, scale = int(found.group(2)), int(found.group(3)), float(found.group(4))
    there, claimed = len(content) - found.end(), 12 * width * height
    if claimed == 0 or there != claimed or scale == 0:
        raise FlowFileError(
            f"{path}: expected {claimed:,} bytes for a flow of {height} x {width} pixels, as stated in its header, "
            f"got {there:,}."
        )
    # The sign of the scale is the byte order.
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", offset=found.end()).reshape(height, width, 3)
    return np.ascontiguousarray(np.moveaxis(values[::-1, :, :2], -1, 0), dtype=np.float32)


def _kitti(content: bytes, path: object) -> NDArray[np.float32]:
    if not _is_deep_color(content[:_HEAD_BYTES]):
        raise FlowFileError(f"{path}: expected a PNG of three channels of 16 bits, as in KITTI, got {_described(content)}.")
    width, height = struct.unpack(">2I", content[16:24])
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise FlowFileError(f"{path}: is too large to be decoded safely: {height} x {width} pixels.")
    try:
        values = 256 * _bytes_of(content, "RGB;16B").astype(np.int32) + _bytes_of(content, "RGB;16L")
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise FlowFileError(f"{path}: not a valid image ({type(error).__name__}: {error}). Replace the file.") from error
    flow = (values[:2].astype(np.float32) - 2**15) / 64
    return np.where(values[2] > 0, flow, np.float32(np.nan))


def _bytes_of(content: bytes, raw_mode: str) -> NDArray[np.uint8]:
    """Decode one byte of each number, `(3, H, W)`: Pillow reduces colours of 16 bits to 8.

    In the order of bytes that PNG has ("RGB;16B"), it keeps the high byte; in the other ("RGB;16L"), the low byte.
    """
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        (codec, box, offset, _), *others = image.tile
        if others or image.mode != "RGB":
            raise ValueError(f"unexpected layout {image.mode}")
        image.tile = [type(image.tile[0])(codec, box, offset, raw_mode)]
        return np.moveaxis(np.asarray(image), -1, 0)


def _is_deep_color(head: bytes) -> bool:
    """Return whether a PNG has three channels of 16 bits."""
    return head[:8] == _PNG and head[12:16] == b"IHDR" and head[24:26] == b"\x10\x02"


def _described(content: bytes) -> str:
    return f"{content[24]} bits and colour type {content[25]}" if len(content) > 25 else "no header"
