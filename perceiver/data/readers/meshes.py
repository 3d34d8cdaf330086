"""Triangle meshes in OFF files, and point sets sampled from their surface."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_REMEDY = "Replace the file with the original or remove it."


def read_off(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read the vertices `(V, 3)` and triangles `(F, 3)`, as vertex indices, of an OFF file.

    Polygons are split into triangles that share their first corner; colours are skipped. Files whose first line continues
    after OFF without a space ("OFF8 6 0"), as some in ModelNet, are read too.

    Raises:
        ValueError: the file is not an OFF file, has fewer or more lines than its header states, has no faces, has
            coordinates that are not finite, or has faces with unknown vertices.
    """
    text = Path(path).read_bytes().decode("ascii", errors="replace")
    lines = [line for raw in text.splitlines() if (line := raw.split("#", 1)[0].strip())]
    if not lines or not lines[0].upper().startswith("OFF"):
        first = lines[0][:40] if lines else ""
        raise ValueError(f"{path}: expected a mesh whose first line is OFF, got {first!r}. {_REMEDY}")
    rest = lines[0][3:].strip()
    counts = (rest or (lines[1] if len(lines) > 1 else "")).split()
    body = lines[1 if rest else 2 :]
    if len(counts) < 2 or not all(count.isdecimal() for count in counts):
        raise ValueError(f"{path}: expected numbers of vertices, faces and edges after OFF, got {' '.join(counts)[:40]!r}.")
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    if num_vertices < 3 or num_faces < 1:
        raise ValueError(f"{path}: has no surface: {num_vertices} vertices and {num_faces} faces. {_REMEDY}")
    if len(body) != num_vertices + num_faces:
        raise ValueError(
            f"{path}: expected {num_vertices} vertices and {num_faces} faces as its header says, one per line, got "
            f"{len(body)} lines. {_REMEDY}"
        )
    vertices = _vertices(path, body[:num_vertices])
    triangles = _triangles(path, body[num_vertices:])
    if triangles.min() < 0 or triangles.max() >= num_vertices:
        wrong = triangles[(triangles < 0) | (triangles >= num_vertices)][0]
        raise ValueError(f"{path}: expected faces of vertices 0 to {num_vertices - 1}, got {wrong}. {_REMEDY}")
    return vertices, triangles


def sample_surface(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], *, num_points: int, random: np.random.RandomState
) -> NDArray[np.float64]:
    """Sample points `(num_points, 3)`, independent and uniform over the surface: triangles by area, uniform within each.

    Raises:
        ValueError: the surface has no area.
    """
    corners = vertices[triangles]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    total = np.cumsum(np.linalg.norm(np.cross(first, second), axis=1))
    if not (np.isfinite(total[-1]) and total[-1] > 0):
        raise ValueError("the surface has no area.")
    chosen = np.searchsorted(total, random.random_sample(num_points) * total[-1], side="right")
    chosen = np.minimum(chosen, len(triangles) - 1)
    along, across = random.random_sample((2, num_points, 1))
    # Points beyond the diagonal of the parallelogram are mirrored into the triangle.
    beyond = along + across > 1
    along, across = np.where(beyond, 1 - along, along), np.where(beyond, 1 - across, across)
    points: NDArray[np.float64] = corners[chosen, 0] + along * first[chosen] + across * second[chosen]
    return points


def _vertices(path: str | os.PathLike[str], lines: list[str]) -> NDArray[np.float64]:
    try:
        vertices = np.array([line.split() for line in lines], dtype=np.float64)
    except ValueError:
        vertices = np.empty((0, 0))
    if vertices.shape != (len(lines), 3):
        raise ValueError(f"{path}: expected three coordinates in each of its {len(lines)} vertex lines. {_REMEDY}")
    if not np.isfinite(vertices).all():
        count = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise ValueError(f"{path}: {count} of {len(vertices)} vertices are NaN or infinite. {_REMEDY}")
    return vertices


def _triangles(path: str | os.PathLike[str], lines: list[str]) -> NDArray[np.int64]:
    rows = [line.split() for line in lines]
    try:
        if all(row[0] == "3" and len(row) > 3 for row in rows):
            return np.array([row[1:4] for row in rows], dtype=np.int64)
        triangles = []
        for row in rows:
            size = int(row[0])
            corners = [int(corner) for corner in row[1 : 1 + size]]
            if size < 3 or len(corners) < size:
                raise ValueError
            triangles += [(corners[0], corners[k], corners[k + 1]) for k in range(1, size - 1)]
        return np.array(triangles, dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{path}: expected each face line to have a number of corners, at least 3, followed by that many "
            f"vertices. {_REMEDY}"
        ) from None
