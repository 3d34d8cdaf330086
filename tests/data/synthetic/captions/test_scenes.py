"""Captions of scenes: what is drawn is where the boxes are, splits, sound of the same digits, absent modalities, a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_sets import digit_sets, read_recordings_once
from hydra_runs import run
from made_once import made_once
from torch import Tensor

import perceiver
from perceiver.data import DataModule, SceneCaptions
from perceiver.data.augmentation.audio import RandomNoise
from perceiver.data.augmentation.corruption import RandomOcclusion
from perceiver.data.synthetic.captions.language import DIGITS, digit_words, parse
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.samples.batch import Batch
from perceiver.testing import check_data_module

SMALL: dict[str, Any] = {
    "validation_images": 20,
    "training_scenes": 40,
    "validation_scenes": 12,
    "test_scenes": 12,
    "batch_size": 16,
    "download": False,
    "tokenizer": "bytes",
}


@pytest.fixture(autouse=True)
def recordings_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read often here."""
    read_recordings_once(monkeypatch)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny files of both sources, which other files of tests read, too."""
    return made_once(tmp_path_factory, "digit_sets", digit_sets)


def prepared(root: Path, **settings: Any) -> DataModule:
    data = DataModule.of(SceneCaptions, root=root, **{**SMALL, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def texts(data: DataModule, batch: Batch) -> list[str]:
    tokenizer = tokenizer_of(data.spec["target"]["tokenizer"])
    assert batch.target is not None
    return [tokenizer.decode(row) for row in batch.target.tolist()]


def image(batch: Batch) -> Tensor:
    found = batch.inputs["image"]
    assert isinstance(found, Tensor)
    return found


CORRUPTION = {"image": {"hidden": RandomOcclusion(side=[0.7, 0.7])}, "audio": {"noise": RandomNoise(snr_decibels=[0, 0])}}


def test_the_kit(root: Path) -> None:
    settings = {**SMALL, "modalities": ["image", "audio"], "missing": {"audio": 0.3}, "corruption": CORRUPTION}
    settings |= {"training_scenes": 16, "validation_scenes": 4, "test_scenes": 4, "batch_size": 8}
    check_data_module(lambda: DataModule.of(SceneCaptions, root=root, **settings), max_batches=2)


def test_digits_are_drawn_where_their_boxes_are(root: Path) -> None:
    data = prepared(root)
    batch = next(iter(data.val_dataloader()))
    spec = data.spec["modalities"]["image"]
    pixels = image(batch) * spec["std"][0] + spec["mean"][0]
    assert batch.groundings is not None
    for picture, caption, phrases in zip(pixels[:, 0], texts(data, batch), batch.groundings, strict=True):
        stated = parse(caption)
        assert stated is not None
        assert [caption[one.start : one.end] for one in phrases] == [DIGITS[digit] for digit, _ in stated.objects]
        inked = (picture > 0.3).float()
        for (_, large), phrase in zip(stated.objects, phrases, strict=True):
            (top, bottom), (left, right) = ((int(first), int(last)) for first, last in phrase.box)
            # The tiny set's digits are noise that fills their square.
            assert (bottom - top, right - left) == ((20, 20) if large else (13, 13))
            assert inked[top:bottom, left:right].mean() > 0.5
            inked[top:bottom, left:right] = 0
        assert inked.sum() == 0


def test_training_scenes_change_and_others_stay(root: Path) -> None:
    data = prepared(root)
    split = data.split("train")
    first, again = split.__getitems__([0, 1, 2]), split.__getitems__([0, 1, 2])
    assert not torch.equal(image(first), image(again))
    assert first.groundings is None
    one, other = (next(iter(loader.val_dataloader())) for loader in (data, prepared(root)))
    assert torch.equal(image(one), image(other))
    fixed = data.source.unaltered(split)
    assert torch.equal(image(fixed.__getitems__([3])), image(fixed.__getitems__([3])))


def test_the_sound_names_the_digits_of_the_scene(root: Path) -> None:
    both = prepared(root, modalities=["image", "audio"])
    split = both.split("val")
    for scene, utterance, name in zip(split.studio.drawn(split.scenes), split.scenes.utterances, range(12), strict=True):
        spoken = [split.studio.speech.names[number] for number in utterance.recordings]
        assert [int(one.split("/")[1][0]) for one in spoken] == [one.digit for one in scene]
        assert len({one.split("_")[2] for one in spoken}) == 1  # one voice
        assert split[name].inputs["audio"].shape[0] == 1
    alone = prepared(root)
    assert torch.equal(alone.split("val")[5].inputs["image"], split[5].inputs["image"])
    sound = prepared(root, modalities=["audio"])
    assert torch.equal(sound.split("val")[5].inputs["audio"], split[5].inputs["audio"])


def test_missing_modalities(root: Path) -> None:
    data = prepared(root, modalities=["image", "audio"], missing={"image": 0.5, "audio": 0.5})
    split = data.split("train")
    batch = split.__getitems__(list(range(40)))
    seen = torch.stack([batch.masks["image"], batch.masks["audio"].any(dim=1)], dim=1)
    assert torch.equal(seen, split.present)
    assert seen.any(dim=1).all()
    assert 5 < int((~seen[:, 0]).sum()) < 35
    lacking = int((~seen[:, 0]).nonzero()[0])
    assert set(split[lacking].inputs) == {"audio"}
    assert split.present[split.example].all()


def test_occluded_images_keep_their_grounding(root: Path) -> None:
    batch = next(iter(prepared(root, corruption=CORRUPTION).val_dataloader()))
    assert batch.groundings is not None
    assert len(batch.groundings) == batch.size == len(batch.ids)


def test_every_word_is_an_id(root: Path) -> None:
    pytest.importorskip("tokenizers")
    data = prepared(root, tokenizer="pairs")
    tokenizer = tokenizer_of(data.spec["target"]["tokenizer"])
    text = "a large seven left of a small three above a small zero"
    assert [tokenizer.decode([number]) for number in tokenizer.encode(text)] == ["a"] + [
        f" {word}" for word in text.split()[1:]
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": ["image", "video"]}, r"data\.modalities: expected some of image, audio, each once"),
        ({"modalities": []}, r"data\.modalities: expected some of"),
        ({"training_scenes": 0}, r"data\.training_scenes: expected 1 or more, got 0"),
        ({"pause_seconds": [0.3, 0.1]}, r"data\.pause_seconds: expected \[least, most\]"),
        ({"missing": {"audio": 0.5}}, r"data\.missing\.audio"),
        ({"tokenizer": "words"}, r"data\.tokenizer: expected pairs or bytes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneCaptions(root=root, **settings)


def test_from_the_command_line(root: Path, tmp_path: Path) -> None:
    size = (
        "model.encoder.num_latents=2", "model.encoder.latent_channels=8", "model.encoder.num_self_heads=2",
        "model.encoder.num_cross_heads=1", "model.adapters.image.stage_channels=[4,4,4]",
        "model.adapters.audio.stage_channels=[4,4]",
    )  # fmt: skip
    settings = [f"data.{name}={str(value).lower()}" for name, value in SMALL.items()]
    code, out, err = run(
        "experiment=scene_captions_sound", *size, *settings, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}",
        "trainer.max_epochs=1", "callbacks.figures=null", "callbacks.report=null", "logger=none",
    )  # fmt: skip
    assert code == 0, out + err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    measured = ("exact_match", "digit_accuracy", "truthfulness", "pointing_accuracy", "mass_in_box")
    assert {f"test/{name}" for name in measured} <= set(metrics)
    [prediction] = perceiver.load(tmp_path / "run").predict({"image": torch.zeros(48, 48, dtype=torch.uint8)})
    assert isinstance(prediction.text, str)
    assert list(digit_words("no digit")) == []
