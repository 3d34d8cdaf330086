"""Digits as point sets: against the images they come from, thinning, splits; the real data where there is some."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perceiver.data import MNIST, DataModule
from perceiver.data.datasets.torchvision_images import IDX_FILES as FILES
from perceiver.data.synthetic.digit_points import DigitPoints, inked_points, thinned
from perceiver.modalities.preprocess import preprocess


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 + 20 images of random ink as MNIST lays them out."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        images, labels = FILES[split]
        inked = random.random((count, 28, 28)) < random.random((count, 1, 1)) * 0.5
        ink = random.integers(1, 256, (count, 28, 28)) * inked
        ink[:, 3, 4] = 99
        write_idx(folder / images, ink.astype(np.uint8))
        write_idx(folder / labels, (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def prepared(root: Path, **arguments: object) -> DataModule:
    module = DataModule.of(DigitPoints, root=root, **{"download": False, "validation_size": 10, **arguments})  # type: ignore[arg-type]
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def drawn(points: torch.Tensor) -> torch.Tensor:
    """The image back from its points."""
    image = torch.zeros(28, 28)
    columns, rows = (((points[:, axis] + 1) * 13.5).round().long() for axis in (0, 1))
    image[rows, columns] = points[:, 2]
    return image


def test_sets_are_the_ink_of_the_images(root: Path) -> None:
    module = prepared(root, batch_size=20)
    (batch,) = module.test_dataloader()
    images = MNIST(root=root, validation_size=10, download=False).read_test()
    points, mask = batch.inputs["points"], batch.masks["points"]
    assert points.shape == (20, (images.pixels > 0).flatten(1).sum(1).max(), 3)
    for row in range(20):
        own = points[row, mask[row]]
        assert len(own) == (images.pixels[row] > 0).sum()
        torch.testing.assert_close(drawn(own), images.pixels[row, 0] / 255)
        assert own[:, :2].abs().max() <= 1
    assert torch.equal(batch.target, images.labels)
    assert batch.ids[3] == "mnist/test/3"


def test_splits_are_those_of_the_images(root: Path) -> None:
    module = prepared(root)
    reference = MNIST(root=root, validation_size=10, download=False)
    training, validation = reference.read_training()
    got = [name for batch in module.val_dataloader() for name in batch.ids]
    assert got == [f"mnist/train/{number}" for number in validation.numbers.tolist()]
    shown = [name for batch in module.train_dataloader() for name in batch.ids]
    assert sorted(shown) == sorted(f"mnist/train/{number}" for number in training.numbers.tolist())


def test_spec_and_prediction(root: Path) -> None:
    module = prepared(root, batch_size=1)
    spec = module.spec["modalities"]["points"]
    assert spec == {"kind": "points", "shape": [None, 3]}
    image = MNIST(root=root, validation_size=10, download=False).read_test().pixels[0, 0]
    batch = next(iter(module.test_dataloader()))
    assert batch.masks == {}
    assert torch.equal(preprocess(inked_points(image), spec=spec, name="x"), batch.inputs["points"][0])


def test_thinning_keeps_so_many_points_always_the_same(root: Path) -> None:
    first, again = (prepared(root, max_points=60, batch_size=20) for _ in range(2))
    (batch,), (other,) = first.test_dataloader(), again.test_dataloader()
    assert torch.equal(batch.inputs["points"], other.inputs["points"])
    images = MNIST(root=root, validation_size=10, download=False).read_test().pixels[:, 0]
    sizes = (images > 0).flatten(1).sum(1)
    assert batch.masks["points"].sum(1).tolist() == sizes.clamp(max=60).tolist()
    for row in range(20):
        image = drawn(batch.inputs["points"][row, batch.masks["points"][row]])
        torch.testing.assert_close(image[image > 0], (images[row] / 255)[image > 0])
    assert torch.equal(thinned(images, 784), images)
    with pytest.raises(ValueError, match=r"data\.max_points: expected 1 or more, or null, got 0"):
        prepared(root, max_points=0)


def test_an_image_without_ink(root: Path) -> None:
    path = root / "MNIST" / "raw" / FILES["test"][0]
    content = bytearray(path.read_bytes())
    content[16 + 7 * 784 : 16 + 8 * 784] = bytes(784)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sample 'mnist/test/7': expected a digit, got an image without ink"):
        prepared(root)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)data\.root: expected MNIST's files in .*PERCEIVER_DATA"):
        DataModule.of(DigitPoints, root=tmp_path, download=False).prepare_data()


def test_real_data(data_root: Path) -> None:
    if not (data_root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {data_root}")
    module = DataModule.of(DigitPoints, root=data_root, download=False, batch_size=1000)
    module.prepare_data()
    module.setup("test")
    sizes = torch.cat([batch.masks["points"].sum(1) for batch in module.test_dataloader()])
    assert len(sizes) == 10000
    images = MNIST(root=data_root, download=False).read_test().pixels
    assert torch.equal(sizes, (images > 0).flatten(1).sum(1))
