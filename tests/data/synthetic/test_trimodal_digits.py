"""Triples: the points of another image of the same digit and split; all subsets of modalities train."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_sets import digit_sets, read_recordings_once
from hydra_runs import run as train
from made_once import made_once

import perceiver
from perceiver.data import MNIST, DataModule, TrimodalDigits
from perceiver.data.augmentation.points import RandomJitter, RandomPointDropout
from perceiver.data.synthetic.digit_points import inked_points

CORRUPTION: dict[str, dict[str, Any]] = {
    "points": {"dropout": RandomPointDropout(rate=[0.8, 0.8]), "jitter": RandomJitter(std=0.1, num_coordinates=2)}
}


@pytest.fixture(autouse=True)
def recordings_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read often here."""
    read_recordings_once(monkeypatch)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny files of both sources, which other files of tests read, too."""
    return made_once(tmp_path_factory, "digit_sets", digit_sets)


def prepared(root: Path, **arguments: Any) -> DataModule:
    # Two images of each digit at least: points are of another than the image.
    small = {"validation_images": 20, "validation_pairs": 30, "test_pairs": 50, "download": False, "batch_size": 64}
    module = DataModule.of(TrimodalDigits, root=root, **{**small, **arguments})
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def test_points_are_the_ink_of_another_image_of_the_same_digit(root: Path) -> None:
    module = prepared(root)
    images = MNIST(root=root, validation_size=20, download=False).read_test()
    (batch,) = module.test_dataloader()
    for row, name in enumerate(batch.ids):
        image, _, other = name.split("+")
        assert image != other
        number = int(other.removeprefix("mnist/test/"))
        assert images.labels[number] == batch.target[row]
        own = batch.inputs["points"][row][batch.masks["points"][row]]
        assert torch.equal(own, inked_points(images.pixels[number, 0]))


def test_splits_are_disjoint_whatever_the_modality(root: Path) -> None:
    module = prepared(root)
    originals = []
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        parts = [name.split("+") for _ in range(5) for batch in loader for name in batch.ids]
        originals.append({part for image, sound, other in parts for part in (image, sound, other)})
    assert not originals[0] & originals[1]
    assert not originals[0] & originals[2]
    assert not originals[1] & originals[2]


def test_spec_and_batches(root: Path) -> None:
    module = prepared(root, missing={"points": 0.5, "audio": 0.5}, batch_size=40)
    assert module.spec["modalities"]["points"] == {"kind": "points", "shape": [None, 3]}
    batch = next(iter(module.train_dataloader()))
    assert set(batch.inputs) == {"image", "audio", "points"}
    there = batch.masks["points"].any(dim=1)
    assert 8 < there.sum() < 32
    assert "image" not in batch.masks


def test_corruption_of_points(root: Path) -> None:
    clean, corrupt, again = (prepared(root, corruption=given) for given in ({}, CORRUPTION, CORRUPTION))
    before, after, repeated = (next(iter(module.test_dataloader())) for module in (clean, corrupt, again))
    assert torch.equal(after.inputs["points"], repeated.inputs["points"])
    shares = after.masks["points"].sum(dim=1) / before.masks["points"].sum(dim=1)
    assert shares.mean().item() == pytest.approx(0.2, abs=0.02)
    x, mask = after.inputs["points"], after.masks["points"]
    assert x[mask][:, :2].std() > before.inputs["points"][before.masks["points"]][:, :2].std()
    # Ink is no coordinate: it stays among the values of the files.
    assert torch.isin((x[mask][:, 2] * 255).round().long(), torch.arange(1, 256)).all()


def test_two_images_of_a_digit_at_least(root: Path) -> None:
    with pytest.raises(ValueError, match=r"class 0: expected at least 2 sample\(s\) of points to match with image, got 1"):
        prepared(root, validation_images=10)


@pytest.mark.slow
def test_training_from_end_to_end(root: Path, tmp_path: Path) -> None:
    small = (
        "model.encoder.num_latents=4",
        "model.encoder.latent_channels=16",
        "trainer.max_epochs=1",
        "data.download=false",
    )
    sizes = ("data.validation_images=20", "data.validation_pairs=20", "data.test_pairs=30", f"data.root={root}")
    run = tmp_path / "run"
    code, _, err = train("experiment=trimodal_digits", *small, *sizes, f"hydra.run.dir={run}")
    assert code == 0, err
    assert 0 <= json.loads((run / "metrics.json").read_text())["test/accuracy"] <= 1
    drawn = {path.name for path in (run / "figures").iterdir()}
    assert drawn >= {"samples_val.png", *(f"attention_{name}_val.png" for name in ("image", "audio", "points"))}
    assert set(perceiver.load(run).adapters) == {"image", "audio", "points"}
