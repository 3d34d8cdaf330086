"""OFF files whole, odd and broken, and points on surfaces whose areas are known."""

from pathlib import Path

import numpy as np
import pytest

from perceiver.data.readers.meshes import read_off, sample_surface

VERTICES = "0 0 0\n2 0 0\n2 1 0\n0 1 0\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mesh.off"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"OFF\n4 2 0\n{VERTICES}3 0 1 2\n3 0 2 3\n",
        f"OFF4 2 0\n{VERTICES}3 0 1 2\n3 0 2 3\n",
        f"OFF 4 2\n{VERTICES}3 0 1 2\n3 0 2 3",
        f"off\r\n# by hand\r\n\r\n4 2 5\r\n{VERTICES}3 0 1 2 # a half\r\n3 0 2 3\r\n",
        f"OFF\n4 2 0\n{VERTICES}3 0 1 2 255 0 0\n3   0\t2 3 0.5 0.5 0.5\n",
        f"OFF\n4 1 0\n{VERTICES}4 0 1 2 3\n",
    ],
)
def test_meshes_in_many_spellings(text: str, tmp_path: Path) -> None:
    vertices, triangles = read_off(written(tmp_path, text))
    assert vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]]
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mesh whose first line is OFF, got ''"),
        ("solid cube\n", "whose first line is OFF, got 'solid cube'"),
        ("OFF\n", "expected numbers of vertices, faces and edges after OFF"),
        ("OFF\nfour 2 0\n", "expected numbers of vertices, faces and edges after OFF, got 'four 2 0'"),
        (f"OFF\n4 0 0\n{VERTICES}", "has no surface: 4 vertices and 0 faces"),
        ("OFF\n0 0 0\n", "has no surface"),
        (f"OFF\n4 3 0\n{VERTICES}3 0 1 2\n3 0 2 3\n", "expected 4 vertices and 3 faces as its header says, .* got 6 lines"),
        (f"OFF\n4 1 0\n{VERTICES}3 0 1 2\n3 0 2 3\n", "expected 4 vertices and 1 faces .* got 6 lines"),
        (f"OFF\n5 1 0\n{VERTICES}3 0 1 2\n3 0 2 3\n", "5 vertex lines|three coordinates|faces of vertices"),
        ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", "expected three coordinates in each of its 3 vertex lines"),
        ("OFF\n3 1 0\n0 0 0\n1 x 0\n0 1 0\n3 0 1 2\n", "expected three coordinates"),
        ("OFF\n3 1 0\n0 0 0\n1 nan 0\n0 1 inf\n3 0 1 2\n", "2 of 3 vertices are NaN or infinite"),
        (f"OFF\n4 1 0\n{VERTICES}3 0 1 4\n", "expected faces of vertices 0 to 3, got 4"),
        (f"OFF\n4 1 0\n{VERTICES}3 0 1 -1\n", "expected faces of vertices 0 to 3, got -1"),
        (f"OFF\n4 1 0\n{VERTICES}3 0 1\n", "a number of corners, at least 3, followed by that many vertices"),
        (f"OFF\n4 1 0\n{VERTICES}2 0 1\n", "a number of corners"),
        (f"OFF\n4 1 0\n{VERTICES}3 0 1 b\n", "a number of corners"),
    ],
)
def test_broken_meshes_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=rf"{path}: .*({message})" if "|" in message else rf"{path}: .*{message}"):
        read_off(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "mesh.off").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ValueError, match="expected a mesh whose first line is OFF"):
        read_off(tmp_path / "mesh.off")


def test_points_are_spread_by_area() -> None:
    """Two triangles far apart, one with three times the area; first and second moments of each are known."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 5], [13, 0, 5], [10, 1, 5]], dtype=float)
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    points = sample_surface(vertices, triangles, num_points=40000, random=np.random.RandomState(0))
    small = points[:, 2] == 0
    assert set(np.unique(points[:, 2])) == {0.0, 5.0}
    assert small.mean() == pytest.approx(0.25, abs=0.01)
    x, y = points[small, 0], points[small, 1]
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + y <= 1 + 1e-12).all()
    # Uniform over the unit triangle: E[x] = E[y] = 1/3, E[x^2] = 1/6, E[xy] = 1/12.
    assert [x.mean(), y.mean(), (x**2).mean(), (x * y).mean()] == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 12], abs=0.01)
    np.testing.assert_allclose(points[~small].mean(0), [11, 1 / 3, 5], atol=0.02)


def test_faces_without_area_get_no_points() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], dtype=float)
    triangles = np.array([[3, 3, 3], [0, 1, 2], [3, 3, 0]])
    points = sample_surface(vertices, triangles, num_points=1000, random=np.random.RandomState(0))
    assert points.max() <= 1
    with pytest.raises(ValueError, match="no area"):
        sample_surface(vertices, triangles[:1], num_points=10, random=np.random.RandomState(0))


def test_the_seed_decides() -> None:
    vertices, triangles = np.eye(3), np.array([[0, 1, 2]])
    first, again, other = (
        sample_surface(vertices, triangles, num_points=9, random=np.random.RandomState(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
