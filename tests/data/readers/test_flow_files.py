"""Flow files: an independent reader for each format, flow as an input, and damaged files."""

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from dense_cases import write_kitti, write_pfm
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets.utils import _read_pfm

from perceiver.data.manifest.cells import read_cell
from perceiver.data.manifest.content import FileContent
from perceiver.data.readers.flow_files import FlowFileError, read_flow, write_flow

FLOW = (np.random.default_rng(0).integers(-999, 999, (2, 5, 7)) / 64).astype(np.float32)
FACTS: dict[str, Any] = {"kind": "motion", "shape": [3, None, None], "channel_axis": 0}


def test_kitti(tmp_path: Path) -> None:
    flow = FLOW.copy()
    flow[:, 1, 2] = np.nan
    write_kitti(tmp_path / "a.png", flow)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.png"), flow)
    with av.open(str(tmp_path / "a.png")) as decoder:
        pixels = next(decoder.decode(video=0)).to_ndarray()
    assert np.array_equal(np.isnan(flow[0]), pixels[..., 2] == 0)
    np.testing.assert_array_equal(
        read_flow(tmp_path / "a.png")[0], np.where(pixels[..., 2], pixels[..., 0] / 64 - 512, np.nan)
    )
    as_input = read_cell("a.png", spec=FACTS, folder=tmp_path)
    assert as_input.shape == (3, 5, 7)
    assert as_input[:, 1, 2].tolist() == [0, 0, 0]
    assert as_input[2].sum() == 34
    assert read_cell("a.png", spec={**FACTS, "shape": [2, 5, 7]}, folder=tmp_path).shape == (2, 5, 7)


@pytest.mark.parametrize("big", [False, True])
def test_pfm(big: bool, tmp_path: Path) -> None:
    write_pfm(tmp_path / "a.pfm", FLOW, big=big)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.pfm"), FLOW)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.pfm"), _read_pfm(str(tmp_path / "a.pfm"))[:2])
    assert read_cell("a.pfm", spec=FACTS, folder=tmp_path)[2].min() == 1


@pytest.mark.parametrize("write", [write_flow, write_kitti, write_pfm])
def test_truncated_files(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "a", FLOW)
    content = (tmp_path / "a").read_bytes()
    for length in range(len(content) - 24):  # the end of a PNG holds no pixels
        with pytest.raises(FlowFileError, match="a: "):
            read_flow(FileContent(content[:length], name="a"))


def test_files_that_lie(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "eight.png")
    write_kitti(tmp_path / "huge.png", FLOW)
    content = (tmp_path / "huge.png").read_bytes()
    (tmp_path / "huge.png").write_bytes(content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:])
    (tmp_path / "grey.pfm").write_bytes(b"Pf\n1 1\n-1\n\0\0\0\0")
    (tmp_path / "claims.pfm").write_bytes(b"PF\n99999 99999\n-1\n\0\0\0\0")
    for name, message in (
        ("eight.png", "expected a PNG of three channels of 16 bits, as in KITTI, got 8 bits"),
        ("huge.png", "is too large to be decoded safely: 60000 x 60000 pixels"),
        ("grey.pfm", "expected a PFM file of three channels"),
        ("claims.pfm", "expected 119,997,600,012 bytes for a flow of 99999 x 99999 pixels, as stated in its header, got 4"),
    ):
        with pytest.raises(FlowFileError, match=f"{name}: {message}"):
            read_flow(tmp_path / name)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("flow")
    for number, write in enumerate((write_flow, write_kitti, write_pfm)):
        write(folder / str(number), FLOW)
    return [(folder / str(number)).read_bytes() for number in range(3)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_clear_error_or_flow(contents: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(contents)))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    message, flow = "", None
    try:
        flow = read_flow(FileContent(bytes(content), name="a.bin"))
    except FlowFileError as error:
        message = str(error)
    assert message.startswith("a.bin: ") if flow is None else flow.shape[0] == 2
