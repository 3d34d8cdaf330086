"""Perceiver AR from end to end: `python train.py` on text files, test without the prefix, predictions, continued texts."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hydra_runs import QUIET, metrics_of
from hydra_runs import run as train

import perceiver
from perceiver import Decoding

SMALL = (
    "experiment=perceiver_ar_text",
    "data=long_text_files",
    *QUIET,
    "model.adapters.text.reference_length=64",
    "model.adapters.text.embedding_channels=16",
    "model.adapters.text.local.num_buckets=64",
    "model.encoder.num_latents=16",
    "model.encoder.latent_channels=16",
    "model.encoder.num_layers=1",
    "model.encoder.num_cross_heads=2",
    "model.encoder.num_self_heads=2",
    "model.head.generation.max_new_tokens=30",
    "data.batch_size=8",
    "logger=none",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of periodic texts: after a few bytes, the next one is certain."""
    root = tmp_path_factory.mktemp("long_texts")
    (root / "texts").mkdir()
    for number in range(3):
        (root / "texts" / f"{number}.txt").write_text("".join(chr(97 + (number + k) % 7) for k in range(600)))
    finished = train(
        *SMALL, f"data.texts.files={root}/texts", "optimizer.lr=1e-2", "trainer.max_epochs=4", f"hydra.run.dir={root}/run"
    )
    assert finished.code == 0, finished.err
    return root / "run"


def test_the_metrics_are_bits_per_byte(run: Path) -> None:
    metrics = metrics_of(run)
    assert {f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "accuracy", "bits_per_byte")} <= set(metrics)
    assert metrics["test/bits_per_byte"] < 4
    assert metrics["test/bits_per_byte"] == pytest.approx(metrics["test/loss"] / 0.693147, rel=0.05)


def test_the_prefix_can_be_masked_in_test(run: Path, tmp_path: Path) -> None:
    texts = f"data.texts.files={run.parent}/texts"
    finished = train(
        *SMALL, texts, "mode=test", f"ckpt_path={run}", "task.read_prefix=false", f"hydra.run.dir={tmp_path}/blind"
    )
    assert finished.code == 0, finished.err
    blind, whole = metrics_of(tmp_path / "blind"), metrics_of(run)
    assert blind["test/bits_per_byte"] != whole["test/bits_per_byte"]


def test_predictions_continue_the_windows(run: Path, tmp_path: Path) -> None:
    finished = train(
        *SMALL, f"data.texts.files={run.parent}/texts", "mode=predict", f"ckpt_path={run}", f"hydra.run.dir={tmp_path}"
    )
    assert finished.code == 0, finished.err
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["id"] == "test@0"
    assert all("prediction" in row for row in rows)


def test_a_loaded_model_continues_any_length(run: Path) -> None:
    model = perceiver.load(run)
    prompt = "abcdefg" * 20  # longer than the context
    text = perceiver.continue_text(model, prompt, decoding=Decoding(max_new_tokens=40, min_length=180))
    assert len(text.encode()) > 20
    assert model.predict(prompt)[0].text.startswith(text[:20])
    saved = json.loads(json.dumps(model.spec))
    assert saved["target"]["kind"] == "text"
    drawn = [
        perceiver.continue_text(
            model,
            prompt,
            decoding=Decoding(do_sample=True, max_new_tokens=5),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]


def test_a_model_of_another_kind_is_refused(run: Path) -> None:
    finished = train(*SMALL, f"data.texts.files={run.parent}/texts", "model/head=pooled", f"hydra.run.dir={run.parent}/bad")
    assert finished.code != 0
    assert "model" in finished.error
