"""Fine-tuning on real digits: what is taken from a checkpoint, frozen, learned more slowly, and what does not fit."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra_runs import QUICK, QUIET, SMALL
from hydra_runs import run as train

FEW = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none", "test=false", "optimizer.lr=0.1")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked autoencoder of the digits' patches; its figure too."""
    directory = tmp_path_factory.mktemp("run") / "pretrained"
    finished = train(
        *QUICK, "task=masked_autoencoding", "test=false", "adapter@model.adapters.image=image_patches",
        "model.adapters.image.patch=2", f"hydra.run.dir={directory}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "failed and is left out" not in finished.err
    assert (directory / "figures" / "reconstruction_val.png").is_file()
    assert "val/loss" in json.loads((directory / "metrics.json").read_text())
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("model.")}


def taken(name: str) -> bool:
    return not name.startswith("model.head.")


def test_a_frozen_encoder_stays_as_it_was_pretrained(pretrained: Path, tmp_path: Path) -> None:
    finished = train(
        "experiment=finetune", f"init_from={pretrained}", "init_freeze=true", "data.num_labelled=100", *FEW, *QUIET,
        "model.encoder.dropout=0.2", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert f"Started from {pretrained}/checkpoints/best.ckpt" in finished.out
    assert "they stay frozen" in finished.out
    before, after = weights(pretrained), weights(tmp_path)
    names = [name for name in after if taken(name)]
    assert len(names) > 10
    assert all(torch.equal(before[name], after[name]) for name in names)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["adapters"]["image"]["patch"] == 2, "built as the checkpoint says"
    assert config["model"]["encoder"]["num_latents"] == 4
    assert config["model"]["encoder"]["dropout"] == 0.2, "what the command line says holds"
    assert sum(config["spec"]["target"]["counts"]) == 100


def test_what_is_taken_learns_more_slowly(pretrained: Path, tmp_path: Path) -> None:
    moved = []
    for number, multiplier in enumerate((1.0, 0.01)):
        directory = tmp_path / str(number)
        finished = train(
            "experiment=finetune", f"init_from={pretrained}", f"init_lr_multiplier={multiplier}", *FEW, *QUIET,
            "optimizer.lr=1e-3", "scheduler=none", f"hydra.run.dir={directory}",
        )  # fmt: skip
        assert finished.code == 0, finished.err
        before, after = weights(pretrained), weights(directory)
        moved.append(max(float((before[name] - after[name]).abs().max()) for name in after if taken(name)))
    assert 0 < moved[1] < 0.05 * moved[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "init_from: .* does not fit .* differ in shape: .*encoder.latents .checkpoint 4x16, model 6x16"),
        (("experiment=finetune", "model/size=tiny"), "init_model=true: .* model/size=tiny configures others"),
        (("init_lr_multiplier=0",), "init_lr_multiplier: expected a number above 0, got 0"),
        (("init_from=no/such/run",), "init_from: no/such/run: no such file or folder"),
        (("init_from=null", "init_freeze=true"), "require init_from, which is not set. Set init_from="),
    ],
)
def test_what_does_not_fit(pretrained: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    own = () if "experiment=finetune" in arguments else (*SMALL, "model.encoder.num_latents=6")
    finished = train(*own, *FEW, f"init_from={pretrained}", *arguments, f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert re.search(words, finished.error), finished.error
