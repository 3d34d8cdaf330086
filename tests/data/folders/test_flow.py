"""Frame pairs and .flo files: the format by hand, cutting and mirroring move the flow along, bad files."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_cases import flow_set, write_kitti, write_pfm
from PIL import Image

from perceiver.data import DataModule, FlowFolder
from perceiver.data.folders.flow import FramePairs
from perceiver.data.readers.flow_files import FlowFileError, read_flow, write_flow
from perceiver.samples.batch import Sample
from perceiver.testing import check_data_module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    flow_set(tmp_path)
    return tmp_path


def module(root: Path, **arguments: Any) -> DataModule:
    return DataModule.of(FlowFolder, root=root, **{"size": (8, 10), "batch_size": 2, "num_workers": 0, **arguments})


def test_kit(root: Path) -> None:
    check_data_module(lambda: module(root))


def test_the_format_is_that_of_middlebury(tmp_path: Path) -> None:
    """Width before height, both components of a pixel beside one another."""
    flow = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
    pixels = [float(flow[axis, row, column]) for row in range(2) for column in range(3) for axis in range(2)]
    content = b"PIEH" + struct.pack("<2i", 3, 2) + struct.pack("<12f", *pixels)
    write_flow(tmp_path / "a.flo", flow)
    assert (tmp_path / "a.flo").read_bytes() == content
    assert np.array_equal(read_flow(tmp_path / "a.flo"), flow)


def moved(sample: Sample) -> None:
    """Where the flow points the second frame is the first, as far as that lies within."""
    frames, flow, seen = sample.inputs["frames"], sample.target, sample.target_mask
    assert isinstance(frames, torch.Tensor)
    assert isinstance(flow, torch.Tensor)
    assert seen is not None
    height, width = seen.shape
    compared = 0
    for row in range(height):
        for column in range(width):
            to = (row + int(flow[1, row, column]), column + int(flow[0, row, column]))
            if bool(seen[row, column]) and 0 <= to[0] < height and 0 <= to[1] < width:
                compared += 1
                assert torch.equal(frames[:, 0, row, column], frames[:, 1, to[0], to[1]])
    assert compared > height * width // 3


def test_cutting_and_mirroring_move_the_flow_along(root: Path) -> None:
    made = module(root)
    made.setup("fit")
    training, validation = made.source.read_training()
    assert isinstance(training, FramePairs)
    assert training.training
    assert training.mirror
    directions = set()
    for number in [*range(len(training))] * 4:
        sample = training[number]
        moved(sample)
        assert isinstance(sample.target, torch.Tensor)
        directions.add(tuple(sample.target[:, 5, 5].tolist()))
    assert directions == {(x, y) for x in (-3.0, 3.0) for y in (-1.0, 1.0)}
    moved(validation[0])
    assert made.spec["target"]["std"] == pytest.approx([5**0.5] * 2)


def test_unknown_flow_is_not_valid(root: Path) -> None:
    made = module(root, size=(12, 16))
    made.setup("test")
    [sample, *_] = list(made.source.read_test())  # type: ignore[call-overload]
    expected = torch.ones(12, 16, dtype=torch.bool)
    expected[:2, :2] = False
    assert torch.equal(sample.target_mask, expected)
    assert bool((sample.target[:, ~expected] == 0).all())
    assert sample.id == "test/scene/0"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def another(path: Path) -> None:
    path.write_bytes(b"flow")


def smaller(path: Path) -> None:
    write_flow(path, np.zeros((2, 9, 9)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_off, r"0\.flo: expected 1,548 bytes for a flow of 12 x 16 pixels, as stated in its header, got 1,547"),
        (
            another,
            r"0\.flo: expected a \.flo file, which begins with the number 202021\.25 in 32 bits, a PFM file, or a PNG",
        ),
        (smaller, r"0\.flo: expected frames and flow of equal size, got \[\(9, 9\), \(12, 16\)\]"),
    ],
)
def test_bad_files_are_named(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(root / "test" / "flow" / "scene" / "0.flo")
    with pytest.raises(FlowFileError, match=message):
        module(root).source.read_test()[0]


def test_frames_that_are_too_small_or_alone(root: Path) -> None:
    with pytest.raises(FlowFileError, match=r"expected frames of at least data\.size=\[13, 10\], got \[12, 16\]"):
        module(root, size=(13, 10)).source.read_test()[0]
    (root / "train" / "second" / "scene" / "1.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"second/scene/1\.jpg: expected this file beside .*1\.png; 1 of 5 have none"
    ):
        module(root).prepare_data()
    with pytest.raises(ValueError, match=r"data\.size: expected \[height, width\]"):
        module(root, size=(0, 1))
    Image.new("RGB", (3, 3)).save(root / "test" / "first" / "new.png")
    with pytest.raises(FileNotFoundError, match=r"second/new\.jpg"):
        module(root).source.read_test()


def test_flow_of_kitti_and_pfm_in_folders(root: Path) -> None:
    """The same flow in three formats; a missing suffix of the flow is found by name."""
    expected = dict(zip("012", module(root).source.read_test(), strict=True))
    folder = root / "test" / "flow" / "scene"
    for number, write in enumerate((write_kitti, write_pfm)):
        flow = read_flow(folder / f"{number}.flo")
        (folder / f"{number}.flo").unlink()
        write(folder / f"{number}{'.png' if number == 0 else '.pfm'}", flow)
    for name, sample in zip("012", module(root).source.read_test(), strict=True):
        assert torch.equal(sample.target, expected[name].target)
        assert torch.equal(sample.target_mask, expected[name].target_mask)
    (folder / "0.flo").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one file per name, got scene/0\.flo and scene/0\.png"):
        module(root).prepare_data()


def test_deep_frames_have_one_scale(root: Path) -> None:
    for file in sorted(root.glob("*/*/scene/*.png")):
        grey = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(file)
    made = module(root)
    made.setup("fit")
    assert made.spec["modalities"]["frames"]["deep_range"] == [0, 4095]
    x = made.source.read_test()[0].inputs["frames"]
    assert 0.8 < float(x.max()) <= 1
    other = module(root)
    other.spec = made.spec
    assert torch.equal(other.source.read_test()[0].inputs["frames"], x)


def test_damaged_pairs_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut_off(root / "test" / "flow" / "scene" / "1.flo")
    (root / "test" / "first" / "scene" / "2.png").write_bytes(b"x")
    made = module(root, on_bad_row="skip")
    made.prepare_data()
    made.setup("fit")
    assert [sample.id for sample in made.source.read_test()] == ["test/scene/0"]
    assert "skipped 2 of 3 samples" in caplog.text
    assert "1.flo: expected 1,548 bytes" in caplog.text
    (root / "test" / "first" / "scene" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"test: no files are left, 3 were skipped: .*0\.png"):
        made.source.read_test()
    with pytest.raises(ValueError, match=r"data\.on_bad_row: expected error or skip, got 'ignore'"):
        module(root, on_bad_row="ignore")


def test_prediction_needs_no_flow(root: Path) -> None:
    made = module(root)
    made.setup("fit")
    shutil.rmtree(root / "test" / "flow")
    other = module(root / "test", batch_size=3)
    other.spec = made.spec
    other.prepare_data()
    (batch,) = other.predict_dataloader()
    assert batch.ids == ["scene/0", "scene/1", "scene/2"]
    assert batch.target is None
    assert batch.inputs["frames"].shape == (3, 3, 2, 8, 10)
