"""CIFAR: tiny files in the original format, read as torchvision reads them; damaged and hostile ones."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision
from image_sets import cifar10_set, cifar100_set, cifar_pixels, python2_pickle

from perceiver.data.datasets.cifar import CIFAR10, CIFAR100, read_batch

FOLDER = {CIFAR10: "cifar-10-batches-py", CIFAR100: "cifar-100-python"}
Module = type[CIFAR10] | type[CIFAR100]


def write(path: Path, content: Any) -> None:
    path.write_bytes(python2_pickle(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cifar10_set(tmp_path)
    cifar100_set(tmp_path)
    return tmp_path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def reference(module: Module, root: Path, *, train: bool) -> Any:
    """torchvision's data set, told the checksums of the small files."""
    base = torchvision.datasets.CIFAR10 if module is CIFAR10 else torchvision.datasets.CIFAR100
    folder = root / FOLDER[module]

    class Small(base):  # type: ignore[misc, valid-type]
        train_list: ClassVar = [[name, md5(folder / name)] for name, _ in base.train_list]
        test_list: ClassVar = [[name, md5(folder / name)] for name, _ in base.test_list]
        meta: ClassVar = {**base.meta, "md5": md5(folder / base.meta["filename"])}

    return Small(root, train=train)


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_reads_what_torchvision_reads(module: Module, root: Path) -> None:
    data = module(root=root, download=False, validation_size=20 if module is CIFAR10 else 100, batch_size=1000)
    data.prepare_data()
    data.setup()
    image = data.spec["modalities"]["image"]
    mean, deviation = (torch.tensor(image[key]).view(3, 1, 1) for key in ("mean", "std"))
    (test,) = data.test_dataloader()
    expected = reference(module, root, train=False)
    raw = torch.from_numpy(expected.data).permute(0, 3, 1, 2)
    torch.testing.assert_close(test.inputs["image"], (raw / 255 - mean) / deviation)
    assert test.target.tolist() == expected.targets
    assert data.spec["target"]["names"] == expected.classes

    batches = [next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader())]
    training = reference(module, root, train=True)
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


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_written_by_current_python(protocol: int, tmp_path: Path) -> None:
    content = {"data": cifar_pixels(4, 0), "labels": [0, 1, 2, 3]}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_batch(tmp_path / "batch")
    assert np.array_equal(read["data"], content["data"])
    assert read["labels"] == content["labels"]


class Hostile:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_never_runs_anything(root: Path) -> None:
    file, made = root / FOLDER[CIFAR10] / "test_batch", root / "made"
    file.write_bytes(pickle.dumps({"data": Hostile(made), "labels": []}))
    with pytest.raises(ValueError, match=rf"{file}: no intact CIFAR file .*asks for (posix|nt)\.mkdir"):
        CIFAR10(root=root, download=False).prepare_data()
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary, got list"),
        ({"labels": [1]}, r"expected bytes of shape \(images, 3072\) under 'data', got NoneType"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, r"got uint8 of shape \(2, 3071\)"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"got uint8 of shape \(0, 3072\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, r"a list of 2 labels, .* under 'labels', got 1 of them"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1]}, "under 'labels', got NoneType"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "expected labels 0 to 9, got 10 for image 1"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "1"]}, "got '1' for image 1"),
    ],
)
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_files_of_other_data_are_reported_before_training(content: Any, message: str, name: str, root: Path) -> None:
    file = root / FOLDER[CIFAR10] / name
    write(file, content)
    with pytest.raises(ValueError, match=message) as caught:
        CIFAR10(root=root, download=False).prepare_data()
    assert str(file) in str(caught.value)
    assert "Replace the folder" in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_truncated_files(length: int, root: Path) -> None:
    file = root / FOLDER[CIFAR10] / "data_batch_5"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{file}: no intact CIFAR file"):
        CIFAR10(root=root, download=False).prepare_data()


def test_class_names_of_another_set(root: Path) -> None:
    file = root / FOLDER[CIFAR10] / "batches.meta"
    write(file, {"label_names": list("abcdefghi")})
    with pytest.raises(ValueError, match=rf"{file}: expected a list of 10 names under 'label_names'"):
        CIFAR10(root=root, download=False).prepare_data()


def test_absent_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / FOLDER[CIFAR100] / "test").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python, but test cannot be had: .*data\.download is false"):
        CIFAR100(root=root, download=False).prepare_data()

    def unreachable(self: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"downloading them failed: network is unreachable.*PERCEIVER_DATA"):
        CIFAR100(root=root).prepare_data()


def test_present_files_are_not_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    CIFAR10(root=root).prepare_data()


def test_a_stored_spec_is_checked_by_class_names(root: Path) -> None:
    data = CIFAR10(root=root, download=False, validation_size=20)
    data.setup("fit")
    stored = data.spec
    later = CIFAR10(root=root, download=False)
    later.spec = stored
    later.setup("test")
    assert later.spec == stored
    with pytest.raises(ValueError, match=r"spec\.target\.names: CIFAR10 has"):
        later.spec = {**stored, "target": {"kind": "classes", "names": list("abcdefghij")}}
