"""`preset=`: what is chosen is printed and kept in config.yaml, and overrides of the command line win."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra_runs import QUIET, run

import perceiver

pytestmark = pytest.mark.usefixtures("unchecked")

STOPPED = (*QUIET, "trainer.max_epochs=1", "+trainer.max_steps=2", "logger=none", "callbacks.figures=null", "test=false")


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


def trained(manifest: str, directory: Path, *overrides: str) -> tuple[str, dict[str, Any]]:
    done = run(
        "data=manifest", f"data.manifest={manifest}", "data.modalities={series: {kind: timeseries, step_seconds: 1.0}}",
        "data.num_workers=0", *STOPPED, *overrides, f"hydra.run.dir={directory}",
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


def test_without_regularisation_there_is_no_augmentation(manifest: str, tmp_path: Path) -> None:
    _, config = trained(manifest, tmp_path / "run", "preset=good", "regularise=false")
    assert config["data"]["augment"] is None


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
