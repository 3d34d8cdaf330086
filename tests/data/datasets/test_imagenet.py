"""ImageNet: the layouts that its archives unpack to, in miniature; nothing is ever downloaded."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import WNIDS, imagenet_set
from PIL import Image
from torchvision.transforms import v2

from perceiver.data import DataModule
from perceiver.data.datasets.imagenet import ImageNet


def prepared(root: Path, **arguments: Any) -> DataModule:
    settings = {"size": [16, 16], "validation_size": 6, "num_workers": 0, "batch_size": 100, **arguments}
    data = DataModule.of(ImageNet, root=root, **settings)
    data.prepare_data()
    data.setup()
    return data


def test_validation_folders_per_class_are_the_test_split(tmp_path: Path) -> None:
    imagenet_set(tmp_path)
    data = prepared(tmp_path, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    (training,), (validation,), (test,) = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert len(set(training.ids) | set(validation.ids)) == 24
    assert validation.target.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.target.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert all(name.startswith("val/n") for name in test.ids)
    assert test.inputs["image"].shape == (12, 3, 16, 16)
    assert data.spec["modalities"]["image"]["mean"] == [0.485, 0.456, 0.406]


def test_the_devkit_tells_the_classes_of_validation_images_in_one_folder(tmp_path: Path) -> None:
    folders, flat = tmp_path / "folders", tmp_path / "flat"
    imagenet_set(folders)
    imagenet_set(flat, devkit=True)
    (expected,), (got,) = prepared(folders).test_dataloader(), prepared(flat).test_dataloader()
    classes = {Path(name).name: int(label) for name, label in zip(expected.ids, expected.target, strict=True)}
    assert {Path(name).name: int(label) for name, label in zip(got.ids, got.target, strict=True)} == classes
    assert got.ids == sorted(got.ids)


def test_names_come_in_words_and_are_unique(tmp_path: Path) -> None:
    words = ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]
    imagenet_set(tmp_path, devkit=True)
    assert prepared(tmp_path).spec["target"]["names"] == words
    shutil.rmtree(tmp_path / "val")
    shutil.rmtree(tmp_path / "ILSVRC2012_devkit_t12")
    assert prepared_names(tmp_path) == list(WNIDS)
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items()))
    assert prepared_names(tmp_path) == words


def prepared_names(root: Path) -> list[str]:
    data = DataModule.of(ImageNet, root=root, needs_test=False)
    data.prepare_data()
    return data.source.class_names


def test_a_subset_of_the_classes(tmp_path: Path) -> None:
    imagenet_set(tmp_path, devkit=True)
    shutil.rmtree(tmp_path / "train" / "n02012849")
    data = prepared(tmp_path)
    (test,) = data.test_dataloader()
    assert test.target.tolist() == [0, 1] * 4
    assert data.spec["target"]["names"] == ["tench, Tinca tinca", "crane"]


def test_evaluation_keeps_224_of_256_about_the_centre(tmp_path: Path) -> None:
    imagenet_set(tmp_path)
    data = prepared(tmp_path, size=[28, 28], mean=[0.0] * 3, std=[1.0] * 3)
    batch = next(iter(data.test_dataloader()))
    image = Image.open(tmp_path / batch.ids[0])
    reference = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(28), v2.ToImage()])(image) / 255
    assert (batch.inputs["image"][0] - reference).abs().mean() < 0.02


@pytest.mark.parametrize("absent", ["train", "val"])
def test_absent_images_are_never_downloaded(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    imagenet_set(tmp_path)
    os.rename(tmp_path / absent, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/{absent}, .* cannot be downloaded automatically") as caught:
        DataModule.of(ImageNet, root=tmp_path).prepare_data()
    for part in ("data.root", "PERCEIVER_DATA", "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12"):
        assert part in str(caught.value)


def test_ground_truth_that_is_absent_or_goes_with_other_images(tmp_path: Path) -> None:
    imagenet_set(tmp_path, devkit=True)
    truth = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"val: expected 11 images, \*\.JPEG, one per line of .*, got 12"):
        DataModule.of(ImageNet, root=tmp_path).prepare_data()
    truth.write_text("\n".join(["1001", *lines[1:]]))
    with pytest.raises(ValueError, match=r"ground_truth\.txt: expected the number of a class .* on line 1, got '1001'"):
        DataModule.of(ImageNet, root=tmp_path).prepare_data()
    truth.unlink()
    with pytest.raises(FileNotFoundError, match=r"ground_truth\.txt: not found, .*sort the images into val/<wnid>/"):
        DataModule.of(ImageNet, root=tmp_path).prepare_data()


def test_a_damaged_list_of_classes(tmp_path: Path) -> None:
    imagenet_set(tmp_path, devkit=True)
    meta = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    meta.write_bytes(meta.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"meta\.mat: expected a list of classes"):
        DataModule.of(ImageNet, root=tmp_path).prepare_data()


def test_training_crops_differ(tmp_path: Path) -> None:
    imagenet_set(tmp_path)
    data = prepared(tmp_path, train_crop=v2.RandomResizedCrop([16, 16], interpolation=3), mean=[0.0] * 3, std=[1.0] * 3)
    first, second = (
        dict(zip(batch.ids, batch.inputs["image"], strict=True)) for _ in range(2) for batch in data.train_dataloader()
    )
    assert all(not torch.equal(first[name], second[name]) for name in first)
