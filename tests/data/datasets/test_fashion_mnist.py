"""Fashion-MNIST: MNIST's file format in another folder, with names of its own."""

from pathlib import Path

import pytest
import torch
import torchvision
from image_sets import idx_set

from perceiver.data import DataModule, FashionMNIST
from perceiver.data.datasets.torchvision_images import IDX_FILES as FILES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 + 20 random images as Fashion-MNIST lays them out."""
    idx_set(tmp_path / "FashionMNIST" / "raw")
    return tmp_path


def test_reads_what_torchvision_reads(root: Path) -> None:
    module = DataModule.of(FashionMNIST, root=root, download=False, validation_size=10, batch_size=50)
    module.prepare_data()
    module.setup()
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert sorted([*training.ids, *validation.ids]) == sorted(f"fashion_mnist/train/{n}" for n in range(60))
    assert sorted(validation.target.tolist()) == list(range(10))
    reference = torchvision.datasets.FashionMNIST(root, train=False)
    (test,) = module.test_dataloader()
    image = module.spec["modalities"]["image"]
    torch.testing.assert_close(test.inputs["image"], (reference.data[:, None] / 255 - image["mean"][0]) / image["std"][0])
    assert torch.equal(test.target, reference.targets)


def test_class_names(root: Path) -> None:
    names = FashionMNIST(root=root).class_names
    assert names is not None
    assert (len(names), names[0], names[-1]) == (10, "T-shirt/top", "Ankle boot")


def test_absent_files_name_this_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected FashionMNIST's files in .*FashionMNIST/raw, .*PERCEIVER_DATA"):
        DataModule.of(FashionMNIST, root=tmp_path, download=False).prepare_data()


def test_absent_files_are_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "FashionMNIST" / "raw" / FILES["test"][1]
    content = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", lambda self: file.write_bytes(content))
    DataModule.of(FashionMNIST, root=root).prepare_data()
    assert file.read_bytes() == content
