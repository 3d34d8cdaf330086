"""Spoken sequences: one voice, the words of the transcript where they are said to be, held-out speakers, a run."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from digit_sets import digit_sets, read_recordings_once
from hydra_runs import run
from made_once import made_once
from torch import Tensor

import perceiver
from perceiver.data import DataModule, SpokenSequences
from perceiver.data.augmentation.audio import RandomNoise, RandomSpeed
from perceiver.data.datasets.spoken_digits import ALL, recording_of
from perceiver.data.synthetic.captions.language import DIGITS
from perceiver.data.synthetic.captions.speech import Speech
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.testing import check_data_module

SMALL: dict[str, Any] = {
    "training_sequences": 20,
    "validation_sequences": 6,
    "test_sequences": 6,
    "pause_seconds": [0.005, 0.02],
    "batch_size": 8,
    "download": False,
    "tokenizer": "bytes",
}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny files of the recordings, which other files of tests read, too."""
    return made_once(tmp_path_factory, "digit_sets", digit_sets)


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the files of one split of speakers once."""
    read_recordings_once(monkeypatch)


def prepared(root: Path, **settings: Any) -> DataModule:
    data = DataModule.of(SpokenSequences, root=root, **{**SMALL, **settings})
    data.setup("fit")
    return data


@pytest.mark.usefixtures("read_once")
def test_the_kit(root: Path) -> None:
    transforms: dict[str, Any] = {
        "augment": {"audio": {"speed": RandomSpeed(factor=[0.9, 1.1])}},
        "corruption": {"audio": {"noise": RandomNoise(snr_decibels=[10, 10])}},
    }
    check_data_module(lambda: DataModule.of(SpokenSequences, root=root, **{**SMALL, **transforms}))


@pytest.mark.usefixtures("read_once")
def test_words_are_spoken_where_they_should_be(root: Path) -> None:
    data = prepared(root)
    tokenizer = tokenizer_of(data.spec["target"]["tokenizer"])
    levels = {
        float(torch.from_numpy(soundfile.read(root / "free-spoken-digit-dataset" / "recordings" / one.name)[0])[0]): one
        for one in ALL
    }
    split = data.split("val")
    lengths = set()
    for sample in (split[number] for number in range(6)):
        sound = sample.inputs["audio"]
        assert isinstance(sound, Tensor)
        assert isinstance(sample.target, Tensor)
        assert sample.grounding is not None
        text = tokenizer.decode(sample.target.tolist())
        words = text.split()
        lengths.add(len(words))
        assert [text[one.start : one.end] for one in sample.grounding] == words
        voices, silent = set(), sound[0].clone()
        for word, phrase in zip(words, sample.grounding, strict=True):
            [(first, end)] = phrase.box
            heard = sound[0, int(first) : int(end)]
            assert len(set(heard.tolist())) == 1  # every recording has a level of its own
            recording = levels[float(heard[0].double())]
            assert DIGITS[recording.digit] == word
            voices.add(recording.speaker)
            silent[int(first) : int(end)] = 0
        assert len(voices) == 1
        assert not silent.any()
        edges = [0, *(edge for phrase in sample.grounding for edge in phrase.box[0]), sound.shape[1]]
        assert all(40 <= after - before <= 160 for before, after in list(pairwise(edges))[::2])
    assert lengths <= {3, 4, 5}


def test_a_held_out_speaker_is_only_tested(root: Path) -> None:
    data = prepared(root, held_out_speaker="theo")
    data.setup("test")
    speakers = {
        name: {recording_of(one).speaker for one in data.split(name).speech.names} for name in ("train", "val", "test")
    }
    assert speakers["test"] == {"theo"}
    assert speakers["train"] == speakers["val"]
    assert "theo" not in speakers["train"]
    assert not {*data.split("train").speech.names} & {*data.split("val").speech.names}


@pytest.mark.usefixtures("read_once")
def test_training_sequences_change_and_others_stay(root: Path) -> None:
    data = prepared(root)
    split = data.split("train")
    texts = {tuple(split.__getitems__([0]).target[0].tolist()) for _ in range(6)}
    assert len(texts) > 3
    assert split.__getitems__([0]).groundings is None
    one = prepared(root, training_words=[1, 1])
    assert {one.source.words, one.split("train").words, one.split("val").words} == {(3, 5), (1, 1)}
    fixed = data.source.unaltered(split)
    assert torch.equal(fixed[3].inputs["audio"], fixed[3].inputs["audio"])
    assert torch.equal(data.split("val")[2].target, prepared(root).split("val")[2].target)


@pytest.mark.usefixtures("read_once")
def test_a_split_without_a_digit(root: Path) -> None:
    speech = prepared(root).split("train").speech
    few = Speech.__new__(Speech)
    few.__dict__ |= {**speech.__dict__, "_groups": [{1: [0]}]}
    with pytest.raises(ValueError, match=r"expected a speaker with recordings of all digits \[1, 2\]"):
        few.draw([1, 2, 1], generator=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": [0, 3]}, r"data\.words: expected \[fewest, most\] words"),
        ({"words": [3]}, r"data\.words: expected"),
        ({"training_words": [2, 1]}, r"data\.training_words: expected"),
        ({"test_sequences": 0}, r"data\.test_sequences: expected 1 or more, got 0"),
        ({"held_out_speaker": "anna"}, r"data\.held_out_speaker: expected one of george"),
        ({"pause_seconds": [-0.1, 0.1]}, r"data\.pause_seconds: expected \[least, most\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpokenSequences(root=root, **settings)


@pytest.mark.usefixtures("read_once")
def test_from_the_command_line(root: Path, tmp_path: Path) -> None:
    size = (
        "model.encoder.num_latents=2", "model.encoder.latent_channels=8", "model.encoder.num_self_heads=2",
        "model.encoder.num_cross_heads=1", "model.adapters.audio.stage_channels=[4,4]", "model.adapters.audio.strides=[2,2]",
    )  # fmt: skip
    settings = [f"data.{name}={str(value).lower()}" for name, value in SMALL.items()]
    code, out, err = run(
        "experiment=spoken_sequences", *size, *settings, f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}",
        "trainer.max_epochs=1", "callbacks.figures=null", "callbacks.report=null", "logger=none",
    )  # fmt: skip
    assert code == 0, out + err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"test/word_error_rate", "test/exact_match", "test/pointing_accuracy"} <= set(metrics)
    [prediction] = perceiver.load(tmp_path / "run").predict((torch.rand(4000).numpy(), 8000))
    assert isinstance(prediction.text, str)
