"""MNIST: tiny files in the original format, damaged in every way that happens, and the real data where there is some."""

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from image_sets import idx_set, write_idx

from perceiver.data import MNIST, DataModule
from perceiver.data.datasets.torchvision_images import IDX_FILES as FILES
from perceiver.data.datasets.torchvision_images import read_idx_shape

IMAGES, LABELS = FILES["train"]
TEST_IMAGES, TEST_LABELS = FILES["test"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 + 20 random images as MNIST lays them out."""
    idx_set(tmp_path / "MNIST" / "raw")
    return tmp_path


def prepared(root: Path, **arguments: object) -> DataModule:
    module = DataModule.of(MNIST, root=root, **{"download": False, "validation_size": 10, **arguments})  # type: ignore[arg-type]
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def test_reads_what_torchvision_reads(root: Path) -> None:
    module = prepared(root, batch_size=20)
    reference = torchvision.datasets.MNIST(root, train=False)
    (batch,) = module.test_dataloader()
    image = module.spec["modalities"]["image"]
    expected = (reference.data[:, None] / 255 - image["mean"][0]) / image["std"][0]
    torch.testing.assert_close(batch.inputs["image"], expected)
    assert torch.equal(batch.target, reference.targets)
    assert batch.ids == [f"mnist/test/{index}" for index in range(20)]


def test_validation_is_split_off_the_training_images_by_class(root: Path) -> None:
    module = prepared(root, batch_size=60)
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert sorted([*training.ids, *validation.ids]) == sorted(f"mnist/train/{index}" for index in range(60))
    assert sorted(validation.target.tolist()) == list(range(10))
    assert module.spec["modalities"]["image"]["shape"] == [1, 28, 28]
    assert module.spec["target"]["names"] == [str(digit) for digit in range(10)]


def test_present_files_are_not_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    prepared(root, download=True)


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        DataModule.of(MNIST, root=tmp_path / "nowhere", download=False).prepare_data()
    message = str(caught.value)
    for part in (str(tmp_path / "nowhere" / "MNIST" / "raw"), *FILES["train"], *FILES["test"]):
        assert part in message
    for remedy in ("data.root", "PERCEIVER_DATA", "data.download=true"):
        assert remedy in message
    assert not (tmp_path / "nowhere").exists()


def test_one_absent_file(root: Path) -> None:
    (root / "MNIST" / "raw" / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=LABELS) as caught:
        DataModule.of(MNIST, root=root, download=False).prepare_data()
    assert IMAGES not in str(caught.value)


def test_impossible_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    with pytest.raises(FileNotFoundError, match=r"(?s)data\.root: expected .* downloading them failed: .*PERCEIVER_DATA"):
        DataModule.of(MNIST, root=tmp_path).prepare_data()


def test_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileNotFoundError, match=r"(?s)data\.root: .* downloading them failed"):
        DataModule.of(MNIST, root=tmp_path / "file").prepare_data()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def behead(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def compress(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08\x00" + path.read_bytes())


def shrink(path: Path) -> None:
    write_idx(path, np.zeros((10, 20, 20), np.uint8))


def drop_all(path: Path) -> None:
    write_idx(path, np.zeros((0, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is truncated: expected {size} bytes .* got {less}"),
        (lengthen, "is corrupt: expected {size} bytes .* got {more}"),
        (behead, "expected an IDX header of 16 bytes, got a file of 9"),
        (empty, "expected an IDX header of 16 bytes, got a file of 0"),
        (compress, "starts with 00 00 08 03 .* got 1f 8b 08 00"),
        (shrink, "expected images of 28 x 28 pixels, got 20 x 20"),
        (drop_all, r"is empty: its header declares the shape \(0, 28, 28\)"),
    ],
)
@pytest.mark.parametrize("name", [IMAGES, TEST_IMAGES])
def test_damaged_images_are_reported_before_training(
    damage: Callable[[Path], None], message: str, name: str, root: Path
) -> None:
    path = root / "MNIST" / "raw" / name
    size = path.stat().st_size
    damage(path)
    with pytest.raises(ValueError, match=message.format(size=size, less=size - 100, more=size + 1)) as caught:
        DataModule.of(MNIST, root=root, download=False).prepare_data()
    assert str(path) in str(caught.value)


def test_labels_out_of_range(root: Path) -> None:
    path = root / "MNIST" / "raw" / TEST_LABELS
    labels = np.arange(20, dtype=np.uint8) % 10
    labels[[13, 17]] = [10, 255]
    write_idx(path, labels)
    with pytest.raises(ValueError, match=rf"{path}: expected labels 0 to 9, got 10 for image 13 and 2 invalid labels"):
        DataModule.of(MNIST, root=root, download=False).prepare_data()


def test_images_without_labels(root: Path) -> None:
    write_idx(root / "MNIST" / "raw" / LABELS, np.zeros(59, np.uint8))
    with pytest.raises(ValueError, match=rf"{LABELS}: expected a label for each of the 60 images .* got 59"):
        DataModule.of(MNIST, root=root, download=False).prepare_data()


@pytest.mark.parametrize("size", [0, 60, 5000])
def test_impossible_validation_size(size: int, root: Path) -> None:
    with pytest.raises(ValueError, match=rf"data\.validation_size: expected 1 to 59, .* got {size}"):
        prepared(root, validation_size=size)


def test_idx_shape(tmp_path: Path) -> None:
    write_idx(tmp_path / "array", np.zeros((2, 3), np.uint8))
    assert read_idx_shape(tmp_path / "array", dimensions=2) == (2, 3)


def test_real_data(data_root: Path) -> None:
    if not (data_root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {data_root}")
    module = DataModule.of(MNIST, root=data_root, download=False, batch_size=1000)
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    image = module.spec["modalities"]["image"]
    assert image["mean"] == pytest.approx([0.1307], abs=2e-4)  # the published figures are those of all 60,000 images
    assert image["std"] == pytest.approx([0.3081], abs=2e-4)
    validation = torch.cat([batch.target for batch in module.val_dataloader()])
    assert len(validation) == 5000
    reference = torchvision.datasets.MNIST(data_root, train=True).targets
    expected = torch.bincount(reference) * 5000 / 60000
    assert ((torch.bincount(validation) - expected).abs() < 1).all()
    assert len(module.train_dataloader()) == 55
    test = next(iter(module.test_dataloader()))
    assert test.target[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert sum(batch.size for batch in module.test_dataloader()) == 10000
