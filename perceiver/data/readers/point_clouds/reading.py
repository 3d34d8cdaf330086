"""Point clouds in PLY and PCD files, recognised by their content, as coordinates and features."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perceiver.data.readers.point_clouds.columns import MOST_HEADER_BYTES, points_of
from perceiver.data.readers.point_clouds.pcd import is_pcd, pcd_header, read_pcd
from perceiver.data.readers.point_clouds.ply import is_ply, ply_header, read_ply


@runtime_checkable
class WholeFile(Protocol):
    """A path, or the content of a file."""

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        ...


def is_point_cloud(file: Path | io.BytesIO) -> bool:
    """Return whether a file is a PLY or PCD file by its content."""
    head, _ = _head(file)
    return is_ply(head) or is_pcd(head)


def read_point_cloud(file: WholeFile, *, features: Sequence[str] = ()) -> NDArray[np.float64]:
    """Read points `(points, 3 + features)`: x, y, z, then the features.

    Points of PCD files with a NaN, missing measurements of a depth camera, are left out.

    Args:
        file: a PLY or PCD file: a path, or its content.
        features: names of columns, or "normals" or "colors" for three columns each. Integer colours are scaled to [0, 1].

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is neither, is damaged or truncated, claims too many points, or lacks a column.
    """
    content = file.read_bytes()
    if is_ply(content):
        return points_of(read_ply(content, path=file), features=features, path=file, drop_missing=False)
    if is_pcd(content):
        return points_of(read_pcd(content, path=file), features=features, path=file, drop_missing=True)
    raise ValueError(f"{file}: expected a PLY or PCD file, which begins with ply or VERSION.")


def check_point_cloud(file: Path | io.BytesIO) -> None:
    """Check the header of a PLY or PCD file against the size of the file; other files pass. Raises ValueError."""
    head, size = _head(file)
    if is_ply(head):
        ply_header(head, size=size, path=file)
    elif is_pcd(head):
        pcd_header(head, size=size, path=file)


def _head(file: Path | io.BytesIO) -> tuple[bytes, int]:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return _head_of(stream)
    found = _head_of(file)
    file.seek(0)
    return found


def _head_of(stream: BinaryIO | io.BytesIO) -> tuple[bytes, int]:
    size = stream.seek(0, 2)
    stream.seek(0)
    return stream.read(MOST_HEADER_BYTES + 64), size
