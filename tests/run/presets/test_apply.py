"""`preset=`: what is chosen is printed and kept in config.yaml, and overrides of the command line win."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from hydra_runs import QUIET, SMALL, run

import perceiver

pytestmark = pytest.mark.usefixtures("unchecked")

STOPPED = (*QUIET, "trainer.max_epochs=1", "+trainer.max_steps=2", "logger=none", "callbacks.figures=null", "test=false")


TWO_STEPS = tuple(word for word in STOPPED if not word.startswith("trainer.max_epochs"))


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """Forty series of two classes."""
    random = np.random.default_rng(0)
    rows = [
        {"id": f"s{number}", "label": "up" if number % 2 else "down", "series": (np.linspace(-1, 1, 40) * (-1) ** number
         + 0.1 * random.normal(size=40)).round(3).tolist()}
        for number in range(40)
    ]  # fmt: skip
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trained(manifest: str, directory: Path, *overrides: str, stopped: Sequence[str] = STOPPED) -> tuple[str, dict[str, Any]]:
    done = run(
        "data=manifest", f"data.manifest={manifest}", "data.modalities={series: {kind: timeseries, step_seconds: 1.0}}",
        "data.num_workers=0", *stopped, *overrides, f"hydra.run.dir={directory}",
    )  # fmt: skip
    assert done.code == 0, done.err
    return done.out, yaml.safe_load((directory / "config.yaml").read_text())


def test_a_preset_is_printed_and_kept(manifest: str, tmp_path: Path) -> None:
    out, config = trained(manifest, tmp_path / "run", "preset=good")
    assert config["preset"] == "good"
    assert config["data"]["steps_per_epoch"] == 50
    assert list(config["data"]["augment"]["series"]) == ["jitter", "scale", "warp", "crop"]
    assert config["model"]["encoder"]["num_latents"] == 8
    assert config["model"]["adapters"]["series"]["stage_channels"] == [32, 64, 64]
    assert config["callbacks"]["averaging"]["multi_avg_fn"]["decay"] == 0.99
    assert config["callbacks"]["best"]["monitor"] == "val/loss"
    assert "preset=good" in out
    [line] = [line for line in out.splitlines() if "data.batch_size" in line]
    assert "32" in line
    assert "samples" in line
    assert any("trainer.max_epochs" in line and "as on the command line" in line for line in out.splitlines())
    assert perceiver.load(tmp_path / "run").spec["num_classes"] == 2


def test_overrides_win(manifest: str, tmp_path: Path) -> None:
    _, config = trained(
        manifest, tmp_path / "run", "preset=fast", "model/size=tiny", "optimizer.lr=7e-3", "data.batch_size=16",
        "+adapter@model.adapters.series=timeseries", "data.augment=null", "averaging=ema",
        "callbacks.averaging.multi_avg_fn.decay=0.5",
    )  # fmt: skip
    assert config["model"]["encoder"]["num_latents"] == 16
    assert config["optimizer"]["lr"] == 7e-3
    assert config["data"]["batch_size"] == 16
    assert config["data"]["augment"] is None
    assert config["model"]["adapters"]["series"]["_target_"] == "perceiver.adapters.timeseries.TimeSeries"
    assert config["callbacks"]["averaging"]["multi_avg_fn"]["decay"] == 0.5
    assert config["data"]["steps_per_epoch"] == 50


def test_a_preset_wins_over_a_recipe(manifest: str, tmp_path: Path) -> None:
    _, config = trained(manifest, tmp_path / "run", "preset=good", "experiment=manifest")
    assert config["model"]["encoder"]["num_latents"] == 8
    assert config["optimizer"]["lr"] == 2e-3


def test_what_the_preset_chooses_follows_what_the_command_line_chooses(manifest: str, tmp_path: Path) -> None:
    _, config = trained(
        manifest, tmp_path / "run", "preset=good", "data.batch_size=3", "data.steps_per_epoch=7", "callbacks.averaging=null",
        "trainer.accumulate_grad_batches=2", "model.encoder.latent_channels=128", stopped=TWO_STEPS,
    )  # fmt: skip
    assert config["trainer"]["max_epochs"] == 300  # 1,200 steps, four per epoch
    assert config["optimizer"]["lr"] == 1.5e-3
    assert config["callbacks"]["averaging"] is None


def test_a_chosen_metric_keeps_its_direction(manifest: str, tmp_path: Path) -> None:
    out, config = trained(
        manifest, tmp_path / "run", "preset=good", "callbacks.best.monitor=val/balanced_accuracy",
        "task.balanced_accuracy=true",
    )  # fmt: skip
    best = config["callbacks"]["best"]
    assert (best["monitor"], best["mode"]) == ("val/balanced_accuracy", "max")
    assert any("monitor" in line and "as in callbacks.best" in line for line in out.splitlines())


def test_jobs_of_a_sweep_are_compared_by_one_metric(manifest: str, tmp_path: Path) -> None:
    done = run(
        "data=manifest", f"data.manifest={manifest}", "data.modalities={series: {kind: timeseries, step_seconds: 1.0}}",
        "data.num_workers=0", *QUIET, "trainer.max_epochs=1", "logger=none", "callbacks.figures=null", "test=false",
        "data.steps_per_epoch=2", "hydra.mode=MULTIRUN", "preset=fast", "optimizer.lr=3e-3,1e-6",
        f"hydra.sweep.dir={tmp_path / 'sweep'}"
    )  # fmt: skip
    assert done.code == 0, done.err
    jobs = [json.loads((tmp_path / "sweep" / number / "job.json").read_text()) for number in "01"]
    for number, job in enumerate(jobs):
        config = yaml.safe_load((tmp_path / "sweep" / str(number) / "config.yaml").read_text())
        assert config["callbacks"]["best"]["monitor"] == "val/accuracy"
        assert 0 <= job["value"] <= 1
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert (best["metric"], best["mode"]) == ("val/accuracy", "max")
    assert best["value"] == max(job["value"] for job in jobs)
    assert best["command"].endswith(" callbacks.best.monitor=val/accuracy callbacks.best.mode=max")


def test_settings_of_a_check_win(manifest: str, tmp_path: Path) -> None:
    _, config = trained(manifest, tmp_path / "run", "preset=good", "debug=overfit", stopped=TWO_STEPS)
    assert config["trainer"]["max_epochs"] == 150


def test_without_regularisation_there_is_no_augmentation(manifest: str, tmp_path: Path) -> None:
    _, config = trained(manifest, tmp_path / "run", "preset=good", "regularise=false")
    assert config["data"]["augment"] is None


def test_without_regularisation_spectra_are_not_masked(tmp_path: Path) -> None:
    rows = []
    for number in range(20):
        soundfile.write(tmp_path / f"{number}.wav", np.sin(np.arange(8000) * (0.1 + number % 2)), 8000)
        rows.append(f"{number}.wav,{number % 2}")
    (tmp_path / "m.csv").write_text("\n".join(["sound,label", *rows]) + "\n")
    done = run(
        "preset=fast", "regularise=false", "data=manifest", f"data.manifest={tmp_path / 'm.csv'}", "data.sample_rate=8000",
        "data.modalities={sound: audio}", "data.num_workers=0", *STOPPED, f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    adapter = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["adapters"]["sound"]
    assert "stage_channels" in adapter
    assert adapter["augment"] is None


def test_a_model_as_stored_stays_as_it_is(manifest: str, tmp_path: Path) -> None:
    trained(manifest, tmp_path / "first", *SMALL)
    out, config = trained(
        manifest, tmp_path / "second", "preset=good", "experiment=finetune", f"init_from={tmp_path / 'first'}"
    )
    assert config["model"]["encoder"]["latent_channels"] == 16
    assert "as in init_from" in out


def test_no_such_preset(tmp_path: Path) -> None:
    done = run("preset=great", f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert "preset: expected fast, good, best or null, got 'great'" in done.error


def test_pixels_of_the_digits_keep_their_adapter(tmp_path: Path) -> None:
    done = run("preset=good", *STOPPED, "mode=fit", f"hydra.run.dir={tmp_path}")
    assert done.code == 0, done.err
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["adapters"]["image"]["_target_"] == "perceiver.adapters.image.ImagePixels"
    assert config["data"]["augment"]["image"]["affine"]["_target_"] == "perceiver.data.augmentation.images.RandomAffine"
