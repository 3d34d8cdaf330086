"""The columns of a point cloud file, and the points that a model gets: coordinates, then features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REMEDY = "Replace the file with the original or remove it."
MOST_POINTS = 2**25
MOST_BYTES = 2**30
"""Limits of a file's points: compressed files could expand to all of the memory."""

MOST_COLUMNS = 1000
MOST_HEADER_BYTES = 2**16

_COORDINATES = ("x", "y", "z")
_GROUPS = {
    "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    "colors": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
}
_COLORS = frozenset(name for names in _GROUPS["colors"] for name in (*names, "alpha", "a"))
_PACKED = ("rgb", "rgba")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number per point.

    Args:
        values: `(points,)`.
        dtype: type that the header declares; text files have the values without their type.
    """

    values: NDArray[Any]
    dtype: np.dtype[Any]


def points_of(
    columns: Mapping[str, Column], *, features: Sequence[str], path: object, drop_missing: bool
) -> NDArray[np.float64]:
    """Return points `(points, 3 + features)`: x, y, z, then the features.

    Args:
        columns: columns of the file by name.
        features: names of columns, or "normals" or "colors" for three columns each. Integer colours are scaled to [0, 1].
        path: name of the file, for messages.
        drop_missing: leave out points with a NaN, by which a format marks missing measurements.

    Raises:
        ValueError: a column is missing, or no points are left.
    """
    columns = {**columns, **_unpacked(columns)}
    names = [*_COORDINATES, *(name for feature in features for name in _names(feature, columns))]
    if missing := [name for name in names if name not in columns]:
        raise ValueError(f"{path}: expected columns {', '.join(names)}, got no {missing[0]}, only {', '.join(columns)}.")
    points = np.stack([_scaled(name, columns[name]) for name in names], axis=1)
    if drop_missing:
        points = points[~np.isnan(points).any(axis=1)]
    if len(points) == 0:
        raise ValueError(f"{path}: contains no points. {REMEDY}")
    return points


def check_counts(*, points: int, bytes_per_point: int, columns: int, path: object) -> None:
    """Check what a header claims before memory is allocated.

    Raises:
        ValueError: there are no points, or too many points, columns or bytes.
    """
    if points < 1:
        raise ValueError(f"{path}: contains no points. {REMEDY}")
    if columns > MOST_COLUMNS or points > MOST_POINTS or points * bytes_per_point > MOST_BYTES:
        raise ValueError(
            f"{path}: its header claims {points:,} points of {columns} columns; at most {MOST_POINTS:,} points, "
            f"{MOST_COLUMNS} columns and {MOST_BYTES:,} bytes are read. Thin it out."
        )


def text_columns(content: bytes, *, skip: int, rows: int, after: int = 0, path: object) -> NDArray[np.float64]:
    """Return numbers `(rows, columns)` of text lines.

    Args:
        content: text with a point per line.
        skip: number of lines to skip.
        rows: number of lines to read.
        after: number of lines that follow.
        path: name of the file, for messages.

    Raises:
        ValueError: lines are missing, differ in length, or hold something other than numbers.
    """
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) < skip + rows + after:
        raise ValueError(
            f"{path}: is truncated: expected {skip + rows + after:,} lines as its header says, got {len(lines):,}. {REMEDY}"
        )
    lines = lines[skip : skip + rows]
    try:
        return np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers in rows of equal length: {error} {REMEDY}") from None


def _names(feature: str, columns: Mapping[str, Column]) -> tuple[str, ...]:
    groups = _GROUPS.get(feature, ())
    return next((names for names in groups if set(names) <= set(columns)), groups[0] if groups else (feature,))


def _scaled(name: str, column: Column) -> NDArray[np.float64]:
    values = column.values.astype(np.float64)
    return values / np.iinfo(column.dtype).max if name in _COLORS and column.dtype.kind in "iu" else values


def _unpacked(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the colours that PCD files pack into the bits of a number of 32 bits."""
    name = next((one for one in _PACKED if one in columns and columns[one].dtype.itemsize == 4), None)
    if name is None or "r" in columns:
        return {}
    dtype = columns[name].dtype.newbyteorder("=")
    with np.errstate(all="ignore"):
        bits = np.ascontiguousarray(columns[name].values.astype(dtype)).view(np.uint32)
    byte = np.dtype(np.uint8)
    return {
        color: Column(values=(bits >> shift & 255).astype(byte), dtype=byte)
        for color, shift in (("r", 16), ("g", 8), ("b", 0))
    }
