"""PLY files: text and binary, of either byte order.

Source of the format: Greg Turk, "The PLY Polygon File Format", 1994.
"""

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

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_LETTERS = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_END = b"\nend_header"


@dataclass(frozen=True, kw_only=True)
class _Property:
    name: str
    dtype: np.dtype[Any]
    count_dtype: np.dtype[Any] | None  # of the length of a list; None: a single number


@dataclass(frozen=True, kw_only=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def has_lists(self) -> bool:
        return any(one.count_dtype is not None for one in self.properties)

    @property
    def least_bytes(self) -> int:
        """Size of a row whose lists are empty."""
        return sum((one.dtype if one.count_dtype is None else one.count_dtype).itemsize for one in self.properties)


@dataclass(frozen=True, kw_only=True)
class PlyHeader:
    """Elements of a PLY file, whose sizes have been checked.

    Args:
        order: byte order, "<" or ">"; empty for text.
        before: elements before the vertices.
        vertices: the vertices, without lists.
        after: elements after the vertices.
        begins: position of the first element in the file.
    """

    order: str
    before: list[_Element]
    vertices: _Element
    after: list[_Element]
    begins: int


def is_ply(head: bytes) -> bool:
    """Return whether a file begins like a PLY file."""
    return head[:4] in (b"ply\n", b"ply\r")


def ply_header(head: bytes, *, size: int, path: object) -> PlyHeader:
    """Parse and check the header.

    Args:
        head: begin of the file, 64 KiB or the whole file.
        size: size of the file.
        path: name of the file, for messages.

    Raises:
        ValueError: the header is invalid, has no vertices, or claims more than the file holds.
    """
    end = head.find(_END, 0, MOST_HEADER_BYTES)
    begins = head.find(b"\n", end + 1) + 1
    if end < 0 or begins == 0:
        raise ValueError(f"{path}: expected a PLY header that ends with {_END.decode().strip()}, got none. {REMEDY}")
    lines = [line.split() for line in head[:end].decode("ascii", errors="replace").splitlines()]
    try:
        order, elements = _parsed(lines)
    except (ValueError, KeyError, IndexError):
        raise ValueError(f"{path}: its PLY header is invalid. {REMEDY}") from None
    names = [element.name for element in elements]
    if names.count("vertex") != 1:
        raise ValueError(f"{path}: expected an element vertex in the PLY header, got {', '.join(names) or 'none'}.")
    position = names.index("vertex")
    vertices = elements[position]
    if vertices.has_lists:
        raise ValueError(f"{path}: expected vertices of single numbers, got lists.")
    check_counts(points=vertices.count, bytes_per_point=vertices.least_bytes, columns=len(vertices.properties), path=path)
    # A number in text takes two bytes or more, with its delimiter; the last may lack that.
    claimed = sum(element.count * (element.least_bytes if order else 2 * len(element.properties)) for element in elements)
    if claimed > size - begins + (not order):
        raise ValueError(
            f"{path}: is truncated: its header claims {claimed:,} bytes or more, but only {size - begins:,} follow. {REMEDY}"
        )
    return PlyHeader(
        order=order, before=elements[:position], vertices=vertices, after=elements[position + 1 :], begins=begins
    )


def read_ply(content: bytes, *, path: object) -> dict[str, Column]:
    """Read the vertices of a PLY file: columns by name.

    Raises:
        ValueError: the file is not a PLY file, is truncated, or has no vertices.
    """
    header = ply_header(content, size=len(content), path=path)
    vertices = header.vertices
    if not header.order:
        skip = sum(element.count for element in header.before)
        after = sum(element.count for element in header.after)
        table = text_columns(content[header.begins :], skip=skip, rows=vertices.count, after=after, path=path)
        if table.shape[1] != len(vertices.properties):
            raise ValueError(
                f"{path}: expected {len(vertices.properties)} numbers per vertex, got {table.shape[1]}. {REMEDY}"
            )
        return {one.name: Column(values=table[:, number], dtype=one.dtype) for number, one in enumerate(vertices.properties)}
    begins = header.begins
    for element in header.before:
        begins = _end(element, content, begins, order=header.order, path=path)
    ends = _end(vertices, content, begins, order=header.order, path=path)
    for element in header.after:
        ends = _end(element, content, ends, order=header.order, path=path)
    row = np.dtype([(one.name, one.dtype) for one in vertices.properties])
    rows = np.frombuffer(content, row, count=vertices.count, offset=begins)
    return {one.name: Column(values=rows[one.name], dtype=one.dtype) for one in vertices.properties}


def _parsed(lines: list[list[str]]) -> tuple[str, list[_Element]]:
    order: str | None = None
    elements: list[_Element] = []
    for words in lines[1:]:
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", form, _]:
                order = _ORDERS[form]
            case ["element", name, count]:
                if not (count.isascii() and count.isdecimal() and len(count) < 20):
                    raise ValueError
                elements.append(_Element(name=name, count=int(count), properties=[]))
            case ["property", "list", count_type, type_, name] if _TYPES[count_type][0] != "f":
                _add(elements, name, type_, count_type, order)
            case ["property", type_, name]:
                _add(elements, name, type_, None, order)
            case _:
                raise ValueError
    if order is None:
        raise ValueError
    return order, elements


def _add(elements: list[_Element], name: str, type_: str, count_type: str | None, order: str | None) -> None:
    properties = elements[-1].properties
    if order is None or any(one.name == name for one in properties):
        raise ValueError
    count_dtype = None if count_type is None else np.dtype(order + _TYPES[count_type])
    properties.append(_Property(name=name, dtype=np.dtype(order + _TYPES[type_]), count_dtype=count_dtype))


def _end(element: _Element, content: bytes, begins: int, *, order: str, path: object) -> int:
    """Return where an element ends.

    Raises:
        ValueError: it ends after the file.
    """
    ends = begins + element.count * element.least_bytes if not element.has_lists else _end_of_equal(element, content, begins)
    # Each row takes a byte or more, and the header was checked against the size of the file, so that the loop is bounded.
    if ends < 0:
        ends = begins
        for _ in range(element.count):
            sizes = _row(element, content, ends, order)
            ends = len(content) + 1 if sizes is None else ends + sum(sizes)
            if ends > len(content):
                break
    if ends > len(content):
        raise ValueError(f"{path}: is truncated or damaged: the element {element.name} ends after the file. {REMEDY}")
    return ends


def _end_of_equal(element: _Element, content: bytes, begins: int) -> int:
    """Return where an element ends whose lists have equal lengths, such as triangles; -1 if they differ."""
    fields: list[tuple[Any, ...]] = []
    offset = begins
    lengths = []
    for number, one in enumerate(element.properties):
        if one.count_dtype is not None:
            if offset + one.count_dtype.itemsize > len(content):
                return -1
            length = int(np.frombuffer(content, one.count_dtype, count=1, offset=offset)[0])
            if length < 0 or length * one.dtype.itemsize > len(content):
                return -1
            lengths.append((f"length {number}", length))
            fields.append((f"length {number}", one.count_dtype))
            offset += one.count_dtype.itemsize + length * one.dtype.itemsize
            fields.append((str(number), one.dtype, (length,)))
        else:
            fields.append((str(number), one.dtype))
            offset += one.dtype.itemsize
    row = np.dtype(fields)
    ends = begins + element.count * row.itemsize
    if ends > len(content):
        return -1
    rows = np.frombuffer(content, row, count=element.count, offset=begins)
    return ends if all((rows[name] == length).all() for name, length in lengths) else -1


def _row(element: _Element, content: bytes, position: int, order: str) -> list[int] | None:
    """Return the sizes of the properties of a row; None if a list is damaged or ends after the file."""
    sizes: list[int] = []
    for one in element.properties:
        size = one.dtype.itemsize
        if one.count_dtype is not None:
            try:
                length = struct.unpack_from(order + _LETTERS[one.count_dtype.str[1:]], content, position + sum(sizes))[0]
            except struct.error:
                return None
            if length < 0:
                return None
            size = one.count_dtype.itemsize + length * size
        sizes.append(size)
    return sizes
