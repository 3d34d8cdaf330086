"""Multimodal autoencoding from `train.py` to predictions: tiny clips whose loss falls, and a checkpoint of use."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hydra_runs import run

import perceiver
from perceiver.data import DataModule, DialedDigits

TINY = (
    "experiment=dialed_digits",
    "data.num_frames=2",
    "data.canvas=[8,10]",
    "data.validation_size=20",
    "data.test_size=20",
    "data.clips_per_digit=1",
    "model.encoder.num_latents=8",
    "model.encoder.latent_channels=32",
    "model.encoder.num_layers_per_block=1",
    "trainer.limit_train_batches=12",
    "trainer.check_val_every_n_epoch=1",
    "trainer.accelerator=cpu",
)

NO_FIGURES = ("callbacks.samples=null", "callbacks.attention=null", "callbacks.attention_modalities=null")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory."""
    directory = tmp_path_factory.mktemp("autoencoding") / "run"
    code, out, err = run(
        *TINY, "trainer.max_epochs=3", "+task.max_queries.video=2", "callbacks.samples.draw.num_samples=2",
        *NO_FIGURES[1:], f"hydra.run.dir={directory}",
    )  # fmt: skip
    assert code == 0, err
    assert "warn" not in err.lower(), err
    assert "val/accuracy" in out
    return directory


def test_the_loss_falls_and_everything_is_reported(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "csv" / "metrics.csv").read_text().splitlines()))
    losses = [float(row["val/loss"]) for row in rows if row.get("val/loss")]
    assert losses[-1] < losses[0]
    metrics = json.loads((trained / "metrics.json").read_text())
    for stage in ("val", "test"):
        own = {"loss", "accuracy", "loss/audio", "loss/video", "loss/label", "psnr/audio", "psnr/video"}
        assert {f"{stage}/{name}" for name in own} <= set(metrics)
    assert metrics["val/attention/label"] == 0.0, "never seen"
    figures = {file.name for file in (trained / "figures").iterdir()}
    assert {"autoencoding_val.png", "samples_val.png", "confusion_val.png", "confusion_test.png"} <= figures


def test_the_checkpoint_reconstructs_and_predicts(trained: Path, tmp_path: Path) -> None:
    model = perceiver.load(trained)
    data = DataModule.of(
        DialedDigits, num_frames=2, canvas=[8, 10], validation_size=20, test_size=20, clips_per_digit=1, batch_size=20
    )
    data.spec = model.spec  # type: ignore[assignment]
    data.setup("test")
    (batch,) = data.test_dataloader()
    with torch.no_grad():
        outputs = model(batch.inputs)
    assert {name: tuple(one.shape) for name, one in outputs.items()}["label"] == (20, 1, 10)
    predicted = model.predict([{"video": torch.rand(1, 2, 8, 10), "audio": torch.randn(320)}])
    assert predicted[0].label in "0123456789"
    code, _, err = run(
        *TINY[1:6], "data=dialed_digits", "mode=predict", f"ckpt_path={trained}", f"hydra.run.dir={tmp_path}",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    message = outputs["label"][:, 0].argmax(dim=1)
    assert [row["prediction"] for row in rows] == [str(int(one)) for one in message]


def test_tested_again_it_reaches_the_same(trained: Path, tmp_path: Path) -> None:
    code, _, err = run(
        *TINY, "mode=test", f"ckpt_path={trained}", *NO_FIGURES, "~callbacks.autoencoding", f"hydra.run.dir={tmp_path}"
    )
    assert code == 0, err
    first, again = (json.loads((folder / "metrics.json").read_text()) for folder in (trained, tmp_path))
    for name in ("test/loss", "test/accuracy", "test/psnr/video"):
        assert again[name] == pytest.approx(first[name], rel=1e-5)


def test_its_encoder_is_a_start_for_a_classifier(trained: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "experiment=finetune", "data=dialed_digits", *TINY[1:6], f"init_from={trained}",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu", "test=false",
        "trainer.limit_val_batches=1", *NO_FIGURES, f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert code == 0, err
    assert "Started from" in out
