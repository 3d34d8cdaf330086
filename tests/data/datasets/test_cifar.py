"""CIFAR: tiny files in the original format, read as torchvision reads them; damaged and hostile ones."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from image_sets import cifar10_set, cifar100_set, cifar_checksums, python2_pickle

from perceiver.data import CIFAR10, CIFAR100, DataModule

FOLDER = {CIFAR10: "cifar-10-batches-py", CIFAR100: "cifar-100-python"}
Module = type[CIFAR10] | type[CIFAR100]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cifar10_set(tmp_path)
    cifar100_set(tmp_path)
    for module in (CIFAR10, CIFAR100):
        cifar_checksums(tmp_path, module.reader, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_reads_what_torchvision_reads(module: Module, root: Path) -> None:
    size = 20 if module is CIFAR10 else 100
    data = DataModule.of(module, root=root, download=False, validation_size=size, batch_size=1000)
    data.prepare_data()
    data.setup()
    image = data.spec["modalities"]["image"]
    mean, deviation = (torch.tensor(image[key]).view(3, 1, 1) for key in ("mean", "std"))
    (test,) = data.test_dataloader()
    expected = module.reader(root, train=False)
    raw = torch.from_numpy(expected.data).permute(0, 3, 1, 2)
    torch.testing.assert_close(test.inputs["image"], (raw / 255 - mean) / deviation)
    assert test.target.tolist() == expected.targets
    assert data.spec["target"]["names"] == expected.classes

    batches = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader())]
    training = module.reader(root, train=True)
    assert sorted(name for batch in batches for name in batch.ids) == sorted(
        f"{module.__name__.lower()}/train/{n}" for n in range(len(training.targets))
    )
    for batch in batches:
        numbers = [int(name.rpartition("/")[2]) for name in batch.ids]
        assert batch.target.tolist() == [training.targets[n] for n in numbers]
        raw = torch.from_numpy(training.data[numbers]).permute(0, 3, 1, 2)
        torch.testing.assert_close(batch.inputs["image"], (raw / 255 - mean) / deviation)
    per_class = torch.bincount(batches[1].target)
    assert per_class.tolist() == [per_class[0]] * len(per_class), "stratified"


class Hostile:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_file_that_is_not_the_original_is_never_unpickled(name: str, root: Path) -> None:
    file, made = root / FOLDER[CIFAR10] / name, root / "made"
    file.write_bytes(pickle.dumps({"data": Hostile(made), "labels": [], "label_names": []}))
    source = CIFAR10(root=root, download=False)
    for read in (source.prepare, source.read_training, source.read_test, source.read_class_names):
        with pytest.raises(ValueError, match=rf"{file}: expected the original file, .*Replace the folder"):
            read()
    assert not made.exists()


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_truncated_files(length: int, root: Path) -> None:
    file = root / FOLDER[CIFAR10] / "data_batch_5"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{file}: expected the original file"):
        CIFAR10(root=root, download=False).prepare()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_files_of_other_data_are_reported_before_training(name: str, root: Path) -> None:
    file = root / FOLDER[CIFAR10] / name
    file.write_bytes(python2_pickle({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}))
    with pytest.raises(ValueError, match=rf"{file}: expected the original file"):
        CIFAR10(root=root, download=False).prepare()


def test_absent_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / FOLDER[CIFAR100] / "test").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python, but test are not available: .*data\.download is false"):
        DataModule.of(CIFAR100, root=root, download=False).prepare_data()

    def unreachable(self: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"downloading them failed: network is unreachable.*PERCEIVER_DATA"):
        DataModule.of(CIFAR100, root=root).prepare_data()


def test_present_files_are_not_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    DataModule.of(CIFAR10, root=root).prepare_data()


def test_a_stored_spec_is_checked_by_class_names(root: Path) -> None:
    data = DataModule.of(CIFAR10, root=root, download=False, validation_size=20)
    data.setup("fit")
    stored = data.spec
    later = DataModule.of(CIFAR10, root=root, download=False)
    later.spec = stored
    later.setup("test")
    assert later.spec == stored
    with pytest.raises(ValueError, match=r"spec\.target\.names: CIFAR10 has"):
        later.spec = {**stored, "target": {"kind": "classes", "names": list("abcdefghij")}}
