"""Pairs of images and recordings: disjoint splits, repeatability, missing modalities, corruption, whole trainings."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_sets import digit_sets, read_recordings_once
from hydra_runs import run as train
from made_once import made_once

import perceiver
from perceiver.data import MNIST, AVDigits, DataModule, SpokenDigits
from perceiver.data.augmentation.audio import RandomNoise
from perceiver.data.augmentation.corruption import RandomOcclusion, RandomPixelNoise
from perceiver.samples.batch import Batch
from perceiver.testing import check_data_module

CORRUPTION: dict[str, dict[str, Any]] = {
    "image": {"occlusion": RandomOcclusion(side=[0.5, 0.5]), "noise": RandomPixelNoise(std=[0.1, 0.1])},
    "audio": {"noise": RandomNoise(snr_decibels=[0, 0])},
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
    small = {"validation_images": 10, "validation_pairs": 30, "test_pairs": 50, "download": False, "batch_size": 64}
    module = DataModule.of(AVDigits, root=root, **{**small, **arguments})
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def ids(loader: Iterable[Batch]) -> list[str]:
    return [name for batch in loader for name in batch.ids]


def sources(names: list[str]) -> tuple[set[str], set[str]]:
    images, recordings = zip(*(name.split("+") for name in names), strict=True)
    return set(images), set(recordings)


def spoken(recording: str) -> tuple[int, int]:
    """Its digit and its number."""
    digit, _, number = recording.removeprefix("spoken_digits/").split("_")
    return int(digit), int(number)


def test_the_kit(root: Path) -> None:
    small = {"validation_images": 10, "validation_pairs": 30, "test_pairs": 50, "batch_size": 10, "download": False}
    check_data_module(lambda: DataModule.of(AVDigits, root=root, corruption=CORRUPTION, **small))


def test_pairs_are_of_one_digit(root: Path) -> None:
    module = prepared(root)
    labels = {"train": MNIST(root=root, download=False).read("train").labels}
    labels["test"] = MNIST(root=root, download=False).read_test().labels
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in loader:
            for name, target in zip(batch.ids, batch.target.tolist(), strict=True):
                image, recording = name.split("+")
                _, split, number = image.split("/")
                assert labels[split][int(number)] == target == spoken(recording)[0]


def test_splits_are_disjoint_in_both_sources(root: Path) -> None:
    module = prepared(root, validation_pairs=400, test_pairs=800)
    training = [name for _ in range(10) for name in ids(module.train_dataloader())]
    validation, test = ids(module.val_dataloader()), ids(module.test_dataloader())
    assert (len(training), len(validation), len(test)) == (10 * 50, 400, 800)
    for own, others in ((training, validation), (training, test), (validation, test)):
        for mine, theirs in zip(sources(own), sources(others), strict=True):
            assert not mine & theirs
    assert len(sources(test)[0]) == 20
    assert len(sources(validation)[0]) == 10
    assert {spoken(recording)[1] for recording in sources(test)[1]} == set(range(5))
    assert min(spoken(recording)[1] for recording in sources(validation)[1] | sources(training)[1]) >= 5
    # Few of 500 draws from 2,400 recordings are the same; most of 300 are among 400 draws.
    assert len(sources(training)[1]) > 400
    assert len(sources(validation)[1]) > 200


def test_inputs_are_the_files_normalised(root: Path) -> None:
    module = prepared(root)
    (batch,) = module.test_dataloader()
    images = DataModule.of(MNIST, root=root, validation_size=10, download=False)
    recordings = DataModule.of(SpokenDigits, root=root, download=False, batch_size=300)
    for one in (images, recordings):
        one.setup("fit")
        one.setup("test")
    assert module.spec["modalities"]["image"] == images.spec["modalities"]["image"]
    assert module.spec["modalities"]["audio"] == recordings.spec["modalities"]["audio"]
    (image_batch,), (sound_batch,) = images.test_dataloader(), recordings.test_dataloader()
    for row, name in enumerate(batch.ids):
        image, recording = name.split("+")
        place = image_batch.ids.index(image)
        torch.testing.assert_close(batch.inputs["image"][row], image_batch.inputs["image"][place])
        place = sound_batch.ids.index(recording)
        torch.testing.assert_close(
            batch.inputs["audio"][row][:, batch.masks["audio"][row]],
            sound_batch.inputs["audio"][place][:, sound_batch.masks["audio"][place]],
        )


def test_training_pairs_are_drawn_anew_and_others_once(root: Path) -> None:
    module, again, other = (prepared(root, corruption=CORRUPTION, pair_seed=seed) for seed in (0, 0, 1))
    epochs = [dict(name.split("+") for name in ids(module.train_dataloader())) for _ in range(2)]
    assert set(epochs[0]) == set(epochs[1]), "every image once an epoch"
    assert sum(epochs[0][image] != epochs[1][image] for image in epochs[0]) > 40
    for name in ("val_dataloader", "test_dataloader"):
        first, second = list(getattr(module, name)()), list(getattr(module, name)())
        torch.manual_seed(5)
        third, fourth = list(getattr(again, name)()), list(getattr(other, name)())
        assert ids(first) == ids(second) == ids(third) != ids(fourth)
        for one, two, three in zip(first, second, third, strict=True):
            for modality in one.inputs:
                assert torch.equal(one.inputs[modality], two.inputs[modality])
                assert torch.equal(one.inputs[modality], three.inputs[modality])


def test_pairs_and_corruption_do_not_depend_on_the_modalities_chosen(root: Path) -> None:
    both = prepared(root, corruption=CORRUPTION)
    (whole,) = both.test_dataloader()
    for name in ("image", "audio"):
        module = prepared(root, modalities=[name], corruption=CORRUPTION, batch_size=7)
        assert list(module.spec["modalities"]) == [name]
        batch = next(iter(module.test_dataloader()))
        assert list(batch.inputs) == [name]
        assert ids(module.test_dataloader()) == whole.ids
        x, y = batch.inputs[name], whole.inputs[name][:7]
        assert torch.equal(x, y[..., : x.shape[-1]])


def test_corruption_strength(root: Path) -> None:
    clean, corrupt = prepared(root), prepared(root, corruption=CORRUPTION)
    for name in ("train_dataloader", "test_dataloader"):
        batch = next(iter(getattr(corrupt, name)()))
        mean, std = (corrupt.spec["modalities"]["image"][key][0] for key in ("mean", "std"))
        pixels = batch.inputs["image"] * std + mean
        # Noise of 0.1 about 0, clipped, is 0.04 on average; the images are uniform, 0.5 on average.
        hidden = (torch.nn.functional.avg_pool2d(pixels, 6, 1) < 0.1).flatten(1).any(dim=1)
        assert hidden.all()
        assert pixels.mean() == pytest.approx(0.75 * 0.5 + 0.25 * 0.04, abs=0.02)
    before, after = (next(iter(module.test_dataloader())) for module in (clean, corrupt))
    mask = before.masks["audio"][:, None]
    noise = after.inputs["audio"] - before.inputs["audio"]
    powers = [
        (torch.where(mask, x, 0.0).square().sum(dim=2) / mask.sum(dim=2))[:, 0] for x in (before.inputs["audio"], noise)
    ]
    assert (powers[0] / powers[1]).log10().mean().item() * 10 == pytest.approx(0, abs=0.3)
    assert not noise[~mask].any()


def test_missing_modalities_are_the_same_in_every_epoch(root: Path) -> None:
    module = prepared(root, missing={"audio": 0.5, "image": 0.2}, batch_size=50)
    epochs = []
    for _ in range(2):
        lacking = {}
        for batch in module.train_dataloader():
            image = batch.masks["image"]
            audio = batch.masks["audio"].any(dim=1)
            assert (image | audio).all()
            lacking |= {name.split("+")[0]: (not i, not a) for name, i, a in zip(batch.ids, image, audio, strict=True)}
        epochs.append(lacking)
    assert epochs[0] == epochs[1]
    without_image, without_audio = (sum(column) for column in zip(*epochs[0].values(), strict=True))
    assert 15 <= without_audio <= 32
    assert 1 <= without_image <= 16
    assert "image" not in next(iter(module.test_dataloader())).masks
    assert all(batch.masks["audio"].any(dim=1).all() for batch in module.val_dataloader())


def test_incomplete_samples_can_be_dropped(root: Path) -> None:
    missing = {"audio": 0.5}
    whole = prepared(root, missing=missing, batch_size=50)
    (batch,) = whole.train_dataloader()
    complete = {name.split("+")[0] for name, has in zip(batch.ids, batch.masks["audio"].any(dim=1), strict=True) if has}
    dropping = prepared(root, missing=missing, drop_incomplete=True)
    batches = list(dropping.train_dataloader())
    assert sources(ids(batches))[0] == complete
    assert all(set(one.inputs) == {"image", "audio"} and one.masks["audio"].any(dim=1).all() for one in batches)
    assert sum(dropping.spec["target"]["counts"]) == len(complete)
    assert len(ids(dropping.val_dataloader())) == 30
    with pytest.raises(ValueError, match=r"data\.drop_incomplete: every training sample lacks a modality"):
        prepared(root, missing={"audio": 1.0}, drop_incomplete=True)


def test_loader_processes(root: Path) -> None:
    module = prepared(root, num_workers=1, corruption=CORRUPTION)
    alone = prepared(root, corruption=CORRUPTION)
    for ours, theirs in zip(module.test_dataloader(), alone.test_dataloader(), strict=True):
        assert ours.ids == theirs.ids
        assert torch.equal(ours.inputs["audio"], theirs.inputs["audio"])


def test_stored_spec(root: Path) -> None:
    module = prepared(root)
    stored = module.spec
    stored["modalities"]["image"]["mean"] = [0.25]
    fresh = DataModule.of(AVDigits, root=root, validation_images=10, test_pairs=5, download=False)
    fresh.spec = stored
    assert fresh.spec == stored
    (batch,) = fresh.test_dataloader()
    assert batch.inputs["image"].min() == pytest.approx(-0.25 / stored["modalities"]["image"]["std"][0], rel=1e-4)
    with pytest.raises(
        ValueError, match=r"spec\.modalities: AVDigits is set to \['image'\], .* data\.modalities=\[image,audio\]"
    ):
        DataModule.of(AVDigits, root=root, modalities=["image"]).spec = stored
    stored["modalities"]["audio"]["sample_rate"] = 16000
    with pytest.raises(ValueError, match=r"spec\.modalities\.audio\.sample_rate: AVDigits has 8000, .* has 16000"):
        fresh.spec = stored
    with pytest.raises(RuntimeError, match="prepare_data"):
        DataModule.of(AVDigits, root=root).spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": []}, r"data\.modalities: expected one or more of image, audio, each once, .* got \[\]"),
        ({"modalities": ["image", "points"]}, r"data\.modalities: .* got \['image', 'points'\]"),
        ({"modalities": ["image", "image"]}, r"data\.modalities"),
        ({"test_pairs": 0}, r"data\.test_pairs: expected 1 or more, got 0"),
        ({"num_workers": -1}, r"data\.num_workers"),
        ({"missing": {"points": 0.5}}, r"data\.missing\.points: expected shares for"),
        ({"modalities": ["image"], "missing": {"audio": 0.5}}, r"data\.missing\.audio"),
        ({"augment": {"points": {}}}, r"data\.augment\.points: expected settings of image, audio"),
        ({"corruption": {"picture": {}}}, r"data\.corruption\.picture"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        DataModule.of(AVDigits, root=root, **arguments)


def test_absent_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected MNIST's files"):
        DataModule.of(AVDigits, root=tmp_path, download=False).prepare_data()
    (tmp_path / "MNIST").symlink_to(root / "MNIST")
    with pytest.raises(FileNotFoundError, match="Free Spoken Digit Dataset"):
        DataModule.of(AVDigits, root=tmp_path, download=False).prepare_data()


SETTINGS = ("data.download=false", "data.validation_images=10", "data.validation_pairs=20", "data.test_pairs=30")
TINY = (
    "experiment=av_digits",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "callbacks.samples=null",
    "callbacks.attention=null",
    "callbacks.report=null",
    "trainer.max_epochs=1",
    *SETTINGS,
)


def test_training_from_end_to_end(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = train(*TINY, f"data.root={root}", f"hydra.run.dir={run}", "data.missing={audio: 0.5}")
    assert code == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["test/accuracy"] <= 1
    assert "adapters.audio" in out
    model = perceiver.load(run)
    assert set(model.adapters) == {"image", "audio"}
    (batch,) = prepared(root).test_dataloader()
    for name in ("image", "audio"):
        masks = {name: batch.masks[name]} if name in batch.masks else {}
        assert model({name: batch.inputs[name]}, masks).shape == (50, 10)

    alone = tmp_path / "alone"
    subset = ("data.modalities=[image]", "~model.adapters.audio", "model.modality_dropout=null", "data.corruption=null")
    code, _, err = train(*TINY, *subset, f"data.root={root}", f"hydra.run.dir={alone}", "test=false")
    assert code == 0, err
    assert set(perceiver.load(alone).adapters) == {"image"}


@pytest.mark.slow
def test_one_batch_can_be_learned_by_heart(root: Path, tmp_path: Path) -> None:
    """Pairs and corruption stay the same when overfitting."""
    arguments = (*TINY, "debug=overfit", "trainer.max_epochs=150", "optimizer.lr=1e-2", "model.encoder.latent_channels=32")
    code, _, err = train(*arguments, f"data.root={root}", f"hydra.run.dir={tmp_path}/run", "data.batch_size=16")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["train/loss"] < 0.3


def test_real_data(data_root: Path) -> None:
    if not all((data_root / name).is_dir() for name in ("MNIST/raw", "free-spoken-digit-dataset/recordings")):
        pytest.skip(f"no MNIST/raw and free-spoken-digit-dataset/recordings in {data_root}")
    module = DataModule.of(AVDigits, root=data_root, download=False, batch_size=500)
    module.setup("fit")
    module.setup("test")
    test = module.test_dataloader().dataset
    names = [test[index].id for index in range(10_000)]  # type: ignore[index]
    images, recordings = sources(names)
    assert len(images) == 10_000
    assert len(recordings) == 300
    training = module.train_dataloader()
    assert len(training) == 110
    seen, heard = sources(next(iter(training)).ids)
    assert not heard & recordings
    assert not seen & images
