"""PCD files of the Point Cloud Library: text, binary, and compressed.

Source of the format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from perceiver.data.readers.point_clouds.columns import (
    MOST_HEADER_BYTES,
    REMEDY,
    Column,
    check_counts,
    text_columns,
)
from perceiver.data.readers.point_clouds.lzf import MOST_EXPANSION, decompressed

_BEGIN = re.compile(rb"(\s*#[^\n]*\n)*\s*(VERSION\s+\.?\d|FIELDS\s+\S)")
_DATA = re.compile(rb"^DATA[ \t]+(\w+)[ \t]*\r?\n", re.MULTILINE)
_SIZES = {"I": (1, 2, 4, 8), "U": (1, 2, 4, 8), "F": (4, 8)}


@dataclass(frozen=True, kw_only=True)
class PcdHeader:
    """Fields of a PCD file, whose sizes have been checked.

    Args:
        names: names of the fields.
        dtypes: their types, little-endian.
        counts: number of values of each field per point.
        points: number of points.
        form: ascii, binary or binary_compressed.
        begins: position of the first point in the file.
    """

    names: list[str]
    dtypes: list[np.dtype[Any]]
    counts: list[int]
    points: int
    form: str
    begins: int

    @property
    def bytes_per_point(self) -> int:
        """Size of an uncompressed point."""
        return sum(dtype.itemsize * count for dtype, count in zip(self.dtypes, self.counts, strict=True))


def is_pcd(head: bytes) -> bool:
    """Return whether a file begins like a PCD file."""
    return _BEGIN.match(head[:MOST_HEADER_BYTES]) is not None


def pcd_header(head: bytes, *, size: int, path: object) -> PcdHeader:
    """Parse and check the header.

    Args:
        head: begin of the file, 64 KiB or the whole file.
        size: size of the file.
        path: name of the file, for messages.

    Raises:
        ValueError: the header is invalid, or claims more than the file holds.
    """
    data = _DATA.search(head[:MOST_HEADER_BYTES])
    if data is None:
        raise ValueError(f"{path}: expected a PCD header that ends with DATA, got none. {REMEDY}")
    try:
        header = _parsed(head[: data.start()].decode("ascii", errors="replace"), data)
    except (ValueError, KeyError, IndexError):
        raise ValueError(f"{path}: its PCD header is invalid. {REMEDY}") from None
    check_counts(points=header.points, bytes_per_point=header.bytes_per_point, columns=sum(header.counts), path=path)
    there = size - header.begins
    claimed = header.points * header.bytes_per_point
    if header.form == "ascii":
        claimed = 2 * header.points * sum(header.counts) - 1  # a digit and a delimiter, save at the end
    if header.form == "binary_compressed":
        claimed = math.ceil(claimed / MOST_EXPANSION)
    if claimed > there:
        raise ValueError(
            f"{path}: is truncated: its header claims {header.points:,} points, {claimed:,} bytes or more, but only "
            f"{there:,} follow. {REMEDY}"
        )
    return header


def read_pcd(content: bytes, *, path: object) -> dict[str, Column]:
    """Read the points of a PCD file: columns by name, of the fields with one value per point.

    Raises:
        ValueError: the file is not a PCD file, or is truncated.
    """
    header = pcd_header(content, size=len(content), path=path)
    singles = [number for number, count in enumerate(header.counts) if count == 1]
    if header.form == "ascii":
        table = text_columns(content[header.begins :], skip=0, rows=header.points, path=path)
        if table.shape[1] != sum(header.counts):
            raise ValueError(f"{path}: expected {sum(header.counts)} numbers per point, got {table.shape[1]}. {REMEDY}")
        places = np.cumsum([0, *header.counts])
        return {
            header.names[number]: Column(values=table[:, places[number]], dtype=header.dtypes[number]) for number in singles
        }
    if header.form == "binary":
        row = np.dtype(
            [
                (str(number), dtype, (count,))
                for number, (dtype, count) in enumerate(zip(header.dtypes, header.counts, strict=True))
            ]
        )
        rows = np.frombuffer(content, row, count=header.points, offset=header.begins)
        return {
            header.names[number]: Column(values=rows[str(number)][:, 0], dtype=header.dtypes[number]) for number in singles
        }
    values = _uncompressed(content, header, path)
    found, begins = {}, 0
    for name, dtype, count in zip(header.names, header.dtypes, header.counts, strict=True):
        if count == 1:
            found[name] = Column(values=np.frombuffer(values, dtype, count=header.points, offset=begins), dtype=dtype)
        begins += dtype.itemsize * count * header.points
    return found


def _uncompressed(content: bytes, header: PcdHeader, path: object) -> bytes | bytearray:
    wanted = header.points * header.bytes_per_point
    body = content[header.begins :]
    if len(body) < 8:
        raise ValueError(f"{path}: is truncated: the sizes of its compressed points are missing. {REMEDY}")
    compressed, size = struct.unpack("<II", body[:8])
    if size != wanted or compressed > len(body) - 8:
        raise ValueError(
            f"{path}: is truncated or damaged: expected {wanted:,} bytes of points, compressed to at most "
            f"{len(body) - 8:,}, got {size:,} compressed to {compressed:,}. {REMEDY}"
        )
    try:
        return decompressed(body[8 : 8 + compressed], size=wanted)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be decompressed: {error}. {REMEDY}") from None


def _parsed(text: str, data: re.Match[bytes]) -> PcdHeader:
    entries: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words:
            if words[0] in entries:
                raise ValueError
            entries[words[0]] = words[1:]
    names = entries["FIELDS"]
    sizes, counts = ([_number(word) for word in entries.get(key, ["1"] * len(names))] for key in ("SIZE", "COUNT"))
    types = entries["TYPE"]
    form = data.group(1).decode()
    if not (len(names) == len(sizes) == len(types) == len(counts) > 0) or form not in (
        "ascii",
        "binary",
        "binary_compressed",
    ):
        raise ValueError
    if any(size not in _SIZES[type_] for size, type_ in zip(sizes, types, strict=True)) or min(counts) < 1:
        raise ValueError
    points = _number(entries["POINTS"][0]) if "POINTS" in entries else -1
    grid = [_number(entries[key][0]) if key in entries else 1 for key in ("WIDTH", "HEIGHT")]
    if (points < 0 and "WIDTH" not in entries) or (points >= 0 and "WIDTH" in entries and grid[0] * grid[1] != points):
        raise ValueError
    # Padding is a field called _, which may occur several times.
    seen: list[str] = []
    for name in names:
        if name in seen and name != "_":
            raise ValueError
        seen.append(name)
    return PcdHeader(
        names=names,
        dtypes=[np.dtype(f"<{type_.lower()}{size}") for size, type_ in zip(sizes, types, strict=True)],
        counts=counts,
        points=grid[0] * grid[1] if points < 0 else points,
        form=form,
        begins=data.end(),
    )


def _number(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise ValueError
    return int(word)
