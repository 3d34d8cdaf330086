"""Containers of sound and video that PyAV decodes: recognised by their content, and opened with that demuxer alone.

FFmpeg would otherwise choose the demuxer itself. Some of its demuxers (playlists, lists of files) open other files and
addresses that the content names.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceiver.data.readers.containers.headers import ogg_ends

# (position, bytes there, FFmpeg's name of the demuxer)
_MAGIC = (
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (4, b"skip", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\x01", "flv"),
    (0, b"wvpk", "wv"),
    (0, b"#!AMR", "amr"),
    (0, b"\xff\xf0", "aac"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf8", "aac"),
    (0, b"\xff\xf9", "aac"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (188, b"G", "mpegts"),  # the second packet
    (0, b"\x00\x00\x01\xb3", "mpegvideo"),
    (0, b"\x00\x00\x00\x01", "h264"),
    (0, b"YUV4MPEG2 ", "yuv4mpegpipe"),
    (0, b"DKIF", "ivf"),
    (0, b"\x06\x0e\x2b\x34", "mxf"),
)
_MOST_BOXES = 1_000_000
_TRANSPORT_PACKET = 188  # bytes


def demuxer_of(file: io.BufferedIOBase) -> str | None:
    """Return FFmpeg's name for the container that the content begins with; None if it is none of the known containers."""
    file.seek(0)
    head = file.read(256)
    file.seek(0)
    for position, magic, name in _MAGIC:
        if head[position : position + len(magic)] == magic and (name != "mpegts" or head[:1] == b"G"):
            return name
    return None


def sound_demuxer_of(file: io.BufferedIOBase) -> str | None:
    """Return the name of the demuxer for sound that libsndfile does not read; None if libsndfile may read it."""
    name = demuxer_of(file)
    if name != "ogg":
        return name
    first_packet = file.read(64)[28:]
    file.seek(0)
    return name if first_packet.startswith((b"\x7fFLAC", b"Speex", b"\x80theora", b"fishead")) else None


@contextmanager
def opened(file: Path | io.BytesIO, *, purpose: str) -> Iterator[Any]:
    """Open a container with PyAV, for the demuxer of its content; nothing else is opened for it.

    Args:
        file: a file, or its content.
        purpose: what needs PyAV, for the message: "video files".

    Raises:
        ImportError: PyAV is not installed.
        ValueError: the content is not a known container, or the file is truncated.
        OSError, ValueError: the file cannot be read, or PyAV does not open it.
    """
    av = import_av(purpose)
    with file.open("rb") if isinstance(file, Path) else _rewound(file) as stream:
        demuxer = demuxer_of(stream)
        if demuxer is None:
            raise ValueError("its content is not that of a known container of sound or video")
        if _is_truncated(stream, demuxer):
            raise ValueError("it is truncated: its last part is shorter than its header says")
        # No protocol is called "none", so that a demuxer cannot open anything besides this stream.
        options = {"protocol_whitelist": "none"}
        try:
            container = av.open(stream, format=demuxer, options=options, metadata_errors="replace")
        except MemoryError:
            # FFmpeg refuses such a table before it allocates anything.
            raise ValueError("it is damaged: a table in it claims more entries than FFmpeg allows") from None
        with container:
            yield container


def import_av(purpose: str) -> Any:
    """Import PyAV.

    Raises:
        ImportError: it is not installed; the message gives the command.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{purpose} need PyAV: pip install av") from error
    return av


def _is_truncated(stream: io.BufferedIOBase, demuxer: str) -> bool:
    """Return whether the sizes that a container states exceed the file, as far as its outermost elements state them."""
    size = stream.seek(0, os.SEEK_END)
    truncated = False
    if demuxer == "mov":
        truncated = _boxes_end(stream, size) > size
    elif demuxer == "matroska":
        truncated = _segment_end(stream) > size
    elif demuxer == "avi":
        stream.seek(4)
        truncated = 8 + int.from_bytes(stream.read(4), "little") > size + 1  # padding
    elif demuxer == "mpegts":
        truncated = size % _TRANSPORT_PACKET > 0
    elif demuxer == "ogg":
        truncated = not ogg_ends(stream, size=size)
    stream.seek(0)
    return truncated


@contextmanager
def _rewound(content: io.BytesIO) -> Iterator[io.BytesIO]:
    """Return the content at its beginning, without closing it in the end."""
    content.seek(0)
    yield content
    content.seek(0)


def _boxes_end(stream: io.BufferedIOBase, size: int) -> int:
    """Return where the last of the outermost boxes of an MP4 file ends, by its own size."""
    position = 0
    for _ in range(_MOST_BOXES):
        if position >= size:
            break
        stream.seek(position)
        head = stream.read(16)
        length, least = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, least = int.from_bytes(head[8:16], "big"), 16
        if length == 0:  # to the end of the file
            return size
        if length < least:
            break
        position += length
    return position


def _segment_end(stream: io.BufferedIOBase) -> int:
    """Return where the segment of a Matroska file ends, by its own size; 0 if its size is open."""
    stream.seek(4)
    length, _ = _ebml_number(stream)
    stream.seek(length, os.SEEK_CUR)
    if stream.read(4) != b"\x18\x53\x80\x67":
        return 0
    length, is_open = _ebml_number(stream)
    return 0 if is_open else stream.tell() + length


def _ebml_number(stream: io.BufferedIOBase) -> tuple[int, bool]:
    """Read a size of variable length; return it, and whether it stands for an open size."""
    first = int.from_bytes(stream.read(1), "big")
    if first == 0:
        return 0, True
    following = 8 - first.bit_length()
    number = (first & (0x7F >> following)) << 8 * following | int.from_bytes(stream.read(following), "big")
    return number, number == (1 << 7 * (following + 1)) - 1
