"""mode=generate, from a training on the command line to files; errors name what was typed."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra_runs import QUIET, metrics_of, run
from made_once import made_once
from PIL import Image

from perceiver.inference.sampling import GeneratedSamples
from perceiver.run.modes import generate
from perceiver.run.modes.generate import write_samples

TINY = (
    "data=fashion_mnist_prompts",
    "data.source={_target_: perceiver.data.Digits}",
    "~data.source.root",
    "~data.source.validation_size",
    "~data.source.split_seed",
    "~data.source.download",
    "data.validation_prompts=8",
    "data.test_prompts=12",
    "data.batch_size=8",
    "task=flow_matching",
    "adapter@model.adapters.image=image_patches",
    "model.adapters.image.patch=4",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=16",
    "model.encoder.state_channels=16",
    "model.encoder.num_blocks=1",
    "model.encoder.num_layers_per_block=1",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
    "logger=none",
    *QUIET,
    "+callbacks.figures.draw.generated={_target_: perceiver.plots.GeneratedSheet, num_conditions: 2, num_samples: 2}",
    "callbacks.figures.every_n_epochs=1",
    "callbacks.figures.epoch_files=true",
    "callbacks.figures.draw.samples=null",
    "callbacks.figures.draw.attention=null",
    "callbacks.figures.draw.attention_modalities=null",
    "task.judged={_target_: perceiver.objectives.JudgedSamples, num_samples: 8, steps: 1, judge: {"
    "_target_: perceiver.objectives.ClassJudge, source: {_target_: perceiver.data.Digits}, name: digits, epochs: 1}}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        finished = run(*TINY, f"hydra.run.dir={folder / 'run'}")
        assert finished.code == 0, finished.err

    return made_once(tmp_path_factory, "generating", make) / "run"


def test_a_run_judges_and_draws(trained: Path) -> None:
    metrics = metrics_of(trained)
    names = ("prompt_accuracy", "frechet_distance", "nearest_training_ratio", "judge_accuracy", "prompt_accuracy/unguided")
    for name in names:
        assert metrics[f"test/{name}"] >= 0
    assert metrics["test/judge_accuracy"] > 0.2
    figures = {path.name for path in (trained / "figures").iterdir()}
    assert {"generated_val.png", "generated_val_epoch_0001.png", "generated_val_epoch_0002.png"} <= figures


def test_files_sheet_and_table(trained: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 8, dtype=np.uint8)).save(tmp_path / "init.png")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "keep.png")
    finished = run(
        "mode=generate",
        f"ckpt_path={trained}",
        'generate.conditions={text: ["the digit seven, perhaps", "3"]}',
        "generate.num_samples=3",
        "generate.guidance=2",
        "generate.steps=1",
        f"generate.init={tmp_path / 'init.png'}",
        f"generate.keep={tmp_path / 'keep.png'}",
        "seed=3",
        f"hydra.run.dir={tmp_path / 'out'}",
    )
    assert finished.code == 0, finished.err
    assert "6 samples of" in finished.out
    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").read_text().splitlines()))
    assert [row["condition_text"] for row in rows] == ["the digit seven, perhaps"] * 3 + ["3"] * 3
    assert {row["seed"] for row in rows} == {"3"}
    assert [row["file"] for row in rows] == [f"samples/{number:06d}.png" for number in range(6)]
    with Image.open(tmp_path / "out" / rows[0]["file"]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
        # Kept: 8 of a range of 16.
        assert set(np.diag(np.asarray(image)).tolist()) == {128}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > sheet.height


def test_samples_outlive_a_sheet_that_fails(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["mode=generate", f"ckpt_path={trained}", "generate.num_samples=1", "generate.steps=1"]
    command += ["generate.conditions={text: 'a $x^$ b'}", f"hydra.run.dir={tmp_path / 'out'}"]
    finished = run(*command)
    assert finished.code == 0, finished.err
    assert (tmp_path / "out" / "sheet.png").is_file()

    def fails(made: GeneratedSamples) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(generate, "sheet_of", fails)
    with pytest.warns(UserWarning, match=r"sheet\.png is left out: MemoryError: too large"):
        finished = run(*command, "generate.num_samples=2")
    assert (finished.code, "sheet.png" in finished.out) == (0, False), finished.err
    assert not (tmp_path / "out" / "sheet.png").exists()
    assert len(list((tmp_path / "out" / "samples").iterdir())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["generate.conditions={txt: seven}"], "error: generate.conditions: expected any of ['text']"),
        (["generate.steps=0"], "error: generate.steps: expected at least 1, got 0"),
        (["generate.shape=[2,28,28]"], "error: generate.shape: the adapter"),
        (['generate.conditions={text: [seven, ""]}'], "error: generate.conditions: sample 1, modality 'text'"),
        (["generate.init=nowhere.png", "generate.start=0.5"], "nowhere.png"),
    ],
)
def test_errors_name_what_was_typed(settings: list[str], message: str, trained: Path, tmp_path: Path) -> None:
    finished = run("mode=generate", f"ckpt_path={trained}", *settings, f"hydra.run.dir={tmp_path / 'out'}")
    assert finished.code == 1
    assert message in finished.error
    assert not (tmp_path / "out" / "samples.csv").exists()


def test_without_a_checkpoint(tmp_path: Path) -> None:
    finished = run("mode=generate", f"hydra.run.dir={tmp_path / 'out'}")
    assert "mode=generate: expected a checkpoint" in finished.error


def test_sounds_and_other_kinds(tmp_path: Path) -> None:
    values = torch.linspace(-1, 1, 100).view(1, 1, 100)
    made = GeneratedSamples(
        values=values, conditions=[{}], num_samples=1, modality="audio", spec={"kind": "audio", "sample_rate": 8000}
    )
    write_samples(made, tmp_path / "sound", seed=0)
    sound, rate = soundfile.read(tmp_path / "sound" / "samples" / "000000.wav")
    assert rate == 8000
    np.testing.assert_allclose(sound, values[0, 0].numpy(), atol=1e-4)
    made = GeneratedSamples(values=values, conditions=[{}], num_samples=1, modality="x", spec={"kind": "points"})
    write_samples(made, tmp_path / "points", seed=0)
    np.testing.assert_array_equal(np.load(tmp_path / "points" / "samples" / "000000.npy"), values[0].numpy())
