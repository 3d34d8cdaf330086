"""PLY and PCD files: every form by hand, features, and headers that lie."""

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_data import claiming_ply, pcd_bomb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from point_cloud_files import COLORS, NORMALS, XYZ, literal_lzf, pcd, ply

from perceiver.data.manifest.cells import check_cell, read_cell
from perceiver.data.manifest.content import FileContent
from perceiver.data.manifest.modalities import parse_modalities
from perceiver.data.readers.point_clouds.lzf import decompressed
from perceiver.data.readers.point_clouds.reading import read_point_cloud
from perceiver.modalities.preprocess import preprocess

PLY_FORMS = ("ascii", "binary_little_endian", "binary_big_endian")
PCD_FORMS = ("ascii", "binary", "binary_compressed")


@pytest.mark.parametrize("form", PLY_FORMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_ply(form: str, end: bytes, tmp_path: Path) -> None:
    content = ply(form)
    head = content.index(b"end_header\n") + len(b"end_header\n")
    path = tmp_path / "a.any"
    path.write_bytes(content[:head].replace(b"\n", end) + content[head:])
    assert np.array_equal(read_point_cloud(path), XYZ)
    assert np.array_equal(read_point_cloud(path, features=["normals"]), np.hstack([XYZ, NORMALS]))
    np.testing.assert_allclose(read_point_cloud(path, features=["colors", "nz"])[:, 3:6], COLORS / 255)


@pytest.mark.parametrize("form", PCD_FORMS)
def test_pcd(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd(form))
    assert np.array_equal(read_point_cloud(path), XYZ)
    np.testing.assert_allclose(read_point_cloud(path, features=["colors"])[:, 3:], COLORS / 255)
    assert read_point_cloud(path, features=["normals", "rgb"])[:, 5].tolist() == [1, 1, 1]


def test_faces_of_different_sizes_before_the_vertices() -> None:
    """Equal lists are skipped at once, others one by one."""
    header = "ply\nformat binary_big_endian 1.0\nelement face 3\nproperty list ushort short corners\nproperty uchar kind\n"
    header += "element vertex 3\nproperty double x\nproperty double y\nproperty double z\nend_header\n"
    points = XYZ.astype(">f8").tobytes()
    for sizes in ((2, 2, 2), (3, 0, 4)):
        faces = b"".join(struct.pack(f">H{size}hB", size, *range(size), 7) for size in sizes)
        content = header.encode() + faces + points
        assert np.array_equal(read_point_cloud(FileContent(content, name="a.ply")), XYZ)
        with pytest.raises(ValueError, match="the element vertex ends after the file"):
            read_point_cloud(FileContent(content[:-1], name="a.ply"))


def test_colours_packed_into_a_float() -> None:
    """The way the Point Cloud Library has always written them."""
    packed = struct.unpack("<f", struct.pack("<I", 0xFF8000))[0]
    header = "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA "
    for content in (
        header.encode() + b"ascii\n" + f"1 2 3 {packed:.9g}\n".encode(),
        header.encode() + b"binary\n" + struct.pack("<4f", 1, 2, 3, packed),
    ):
        points = read_point_cloud(FileContent(content, name="a.pcd"), features=["colors"])
        np.testing.assert_allclose(points, [[1, 2, 3, 1, 128 / 255, 0]])


def test_lzf_copies() -> None:
    """A run, a copy of more than nine bytes, and one that begins far back."""
    far = bytes(range(32)) * 20
    data = literal_lzf(far) + bytes([0xE0 | 1, 50, 100]) + bytes([0x20, 0])
    start = len(far) - 256 - 100 - 1
    copied = far[start : start + 59]
    assert decompressed(data, size=len(far) + 59 + 3) == far + copied + copied[-1:] * 3


@pytest.mark.parametrize("make", [*(lambda f=f: ply(f) for f in PLY_FORMS), *(lambda f=f: pcd(f) for f in PCD_FORMS)])
def test_truncated_clouds(make: Callable[[], bytes]) -> None:
    content = make()
    for length in range(0, len(content) - 9, 5):
        with pytest.raises(ValueError, match=r"a\.bin: "):
            read_point_cloud(FileContent(content[:length], name="a.bin"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"vertex 3", b"vertex 3000000000000"), "its header claims"),
        ((b"vertex 3", b"vertex 30000"), "is truncated: its header claims"),
        ((b"vertex 3", b"vertex -3"), "header is invalid"),
        ((b"vertex 3", b"vertex 0"), "contains no points"),
        ((b"element vertex", b"element corner"), "expected an element vertex"),
        ((b"double x", b"complex x"), "header is invalid"),
        ((b"double x", b"double w"), "got no x, only red, w, y"),
        ((b"double x", b"list uchar double x"), "expected vertices of single numbers"),
        ((b"double y", b"double x"), "header is invalid"),
        ((b"camera 1", b"camera 99999999999"), "is truncated"),
    ],
)
def test_ply_headers_that_lie(change: tuple[bytes, bytes], message: str) -> None:
    for form in PLY_FORMS:
        with pytest.raises(ValueError, match=rf"a\.ply: .*{message}"):
            read_point_cloud(FileContent(ply(form).replace(*change), name="a.ply"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"POINTS 3", b"POINTS 4"), "header is invalid"),
        ((b"WIDTH 3\nHEIGHT 1", b"WIDTH 3\nHEIGHT 2"), "header is invalid"),
        ((b"SIZE 8 8 8", b"SIZE 8 8 3"), "header is invalid"),
        ((b"TYPE F F F U", b"TYPE F F F O"), "header is invalid"),
        ((b"COUNT 1 1 1 1 4", b"COUNT 1 1 1 1 900000"), "claims"),
        ((b"x y z", b"x y w"), "got no z"),
        ((b"DATA ", b"DATA un"), "header is invalid"),
    ],
)
def test_pcd_headers_that_lie(change: tuple[bytes, bytes], message: str) -> None:
    for form in PCD_FORMS:
        with pytest.raises(ValueError, match=rf"a\.pcd: .*{message}"):
            read_point_cloud(FileContent(pcd(form, missing=False).replace(*change), name="a.pcd"))


@pytest.mark.parametrize("make", [claiming_ply, pcd_bomb])
def test_files_that_would_exhaust_memory(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "a.bin")
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.bin: (is truncated: )?its header claims"):
        read_point_cloud(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_cells(tmp_path: Path) -> None:
    """Coordinates of maps stay exact until they are centred; features follow them."""
    (modality,) = parse_modalities({"scan": {"kind": "points", "features": ["colors"]}}, defaults={})
    spec = {**modality.spec, "shape": [None, 6]}
    (tmp_path / "a.ply").write_bytes(ply("binary_big_endian"))
    check_cell("a.ply", spec=spec, folder=tmp_path)
    for value in ("a.ply", FileContent(ply("ascii"), name="b.ply")):
        x: Any = preprocess(read_cell(value, spec=spec, folder=tmp_path), spec=spec, name="x")
        assert x.shape == (3, 6)
        assert float(x[:, :3].norm(dim=1).max()) == pytest.approx(1)
        np.testing.assert_allclose(x[:, 3:], COLORS / 255, rtol=1e-6)
    (tmp_path / "a.ply").write_bytes(ply("ascii")[:300])
    with pytest.raises(ValueError, match=r"a\.ply: "):
        check_cell("a.ply", spec=spec, folder=tmp_path)
    assert "features" not in parse_modalities({"scan": "points"}, defaults={})[0].spec
    with pytest.raises(ValueError, match=r"scan: features: expected a list of names"):
        parse_modalities({"scan": {"kind": "points", "features": "colors"}}, defaults={})


PIECES = st.one_of(st.binary(max_size=3), st.sampled_from([b"9" * 15, b"-1", b"\n", b" list int ", b"nan"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_clouds_give_a_clear_error_or_points(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([*map(ply, PLY_FORMS), *map(pcd, PCD_FORMS)])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(PIECES)
    message, points = "", None
    try:
        points = read_point_cloud(FileContent(bytes(content), name="a.bin"), features=["colors"])
    except ValueError as error:
        message = str(error)
    assert message.startswith("a.bin: ") if points is None else points.shape[1:] == (6,)


def test_content_without_a_name() -> None:
    with pytest.raises(ValueError, match="expected a PLY or PCD file"):
        read_point_cloud(FileContent(b"1 2 3\n", name="a.xyz"))
    assert isinstance(FileContent(b"", name=""), io.BytesIO)
