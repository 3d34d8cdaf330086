"""From image files to metrics with `python train.py`: folders with unequal classes, mixing, and testing elsewhere."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from hydra_runs import SMALL, metrics_of
from hydra_runs import run as train
from image_sets import cifar10_set, cifar_checksums, folder_set
from PIL import Image

import perceiver

CONVOLVED = (
    *SMALL,
    "adapter@model.adapters.image=image_conv",
    "trainer.max_epochs=2",
    "logger=none",
    "callbacks.report=null",
)


def test_image_folders_with_unequal_classes(tmp_path: Path) -> None:
    root, run = tmp_path / "images", tmp_path / "run"
    folder_set(root)
    for file in sorted((root / "train" / "zebra").iterdir())[3:]:
        file.unlink()
    settings = (f"data.root={root}", "data.num_workers=0", "data.size=[24,24]")
    unequal = ("task.class_weights=balanced", "task.balanced_accuracy=true", "data.balanced_sampling=true")
    code, _, err = train("data=image_folder", *CONVOLVED, *settings, *unequal, f"hydra.run.dir={run}")
    assert code == 0, err
    metrics = metrics_of(run)
    assert {"val/balanced_accuracy", "test/balanced_accuracy"} <= set(metrics)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["spec"]["target"]["names"] == ["cat", "dog", "zebra"]
    assert config["task"]["class_counts"] == config["spec"]["target"]["counts"]
    assert sum(config["spec"]["target"]["counts"]) == 17, "19 images, two of them for validation"

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / "test", elsewhere / "test")
    again = tmp_path / "again"
    quiet = ("logger=none", "callbacks.report=null")
    arguments = ("mode=test", "data=image_folder", f"data.root={elsewhere}", *settings[1:], *quiet)
    code, _, err = train(*arguments, f"ckpt_path={run}", f"hydra.run.dir={again}")
    assert code == 0, err
    assert metrics_of(again)["test/accuracy"] == metrics["test/accuracy"]

    model = perceiver.load(run)
    files = sorted((root / "test").rglob("*.*"))
    predictions = model.predict([Image.open(file) for file in files])
    right = [prediction.label == file.parent.name for prediction, file in zip(predictions, files, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics["test/accuracy"])

    # The folder of the test images has no splits: all files are predicted for, under their paths, save damaged ones.
    (root / "test" / "cat" / "damaged.png").write_bytes(b"x")
    arguments = ("mode=predict", "data=image_folder", f"data.root={root / 'test'}", *settings[1:], "data.on_bad_row=skip")
    code, _, err = train(*arguments, f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'predicted'}")
    assert code == 0, err
    with (tmp_path / "predicted" / "predictions.csv").open(newline="") as table:
        rows = {row["id"]: row["prediction"] for row in csv.DictReader(table)}
    expected = [file.relative_to(root / "test").as_posix() for file in files]
    assert rows == dict(zip(expected, [prediction.label for prediction in predictions], strict=True))


def test_a_damaged_image_reads_in_one_line(tmp_path: Path) -> None:
    folder_set(tmp_path / "images")
    file = tmp_path / "images" / "train" / "dog" / "3.jpg"
    file.write_bytes(file.read_bytes()[:300])
    settings = (f"data.root={tmp_path / 'images'}", "data.num_workers=0", f"hydra.run.dir={tmp_path / 'run'}")
    code, _, err = train("data=image_folder", *CONVOLVED, *settings)
    assert code == 1
    assert err.startswith(f"error: {file}: not a valid image (")


def test_the_cifar10_recipe_mixes_training_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10_set(tmp_path)
    cifar_checksums(tmp_path, torchvision.datasets.CIFAR10, monkeypatch)
    run = tmp_path / "run"
    settings = (f"data.root={tmp_path}", "data.download=false", "data.validation_size=20", "data.batch_size=16")
    code, _, err = train(
        "experiment=cifar10", *SMALL, "trainer.max_epochs=2", "logger=none", *settings, "test=false", f"hydra.run.dir={run}"
    )
    assert code == 0, err
    assert "val/accuracy" in metrics_of(run)
    model = perceiver.load(run)
    assert model.spec is not None
    assert model.spec["modalities"]["image"]["shape"] == [3, 32, 32]
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"].keys() == {
        f"model.{name}" for name in model.state_dict()
    }
