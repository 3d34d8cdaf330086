"""What a training can be told besides its recipe: precision, accumulated gradients, clipping, checkpointed activations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra_runs import QUIET, run
from torch import Tensor

QUICK = (
    "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_val_batches=2", "logger=none", "test=false",
    "scheduler=none", *QUIET,
    "model.encoder.num_latents=4", "model.encoder.latent_channels=16", "model.encoder.num_self_heads=2",
)  # fmt: skip
PLAIN = (*QUICK, "regularise=false")
"""Without anything random: what is augmented or dropped differs from batch to batch."""


def trained(directory: Path, *overrides: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metrics after a run."""
    code, _, err = run(*overrides, f"hydra.run.dir={directory}")
    assert code == 0, err
    checkpoint = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], json.loads((directory / "metrics.json").read_text())


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest between two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_accumulated_batches_are_a_batch_of_their_sum(tmp_path: Path) -> None:
    # Not AdamW, which turns rounding of near-zero gradients into steps of full size.
    sgd = ("optimizer=sgd", "optimizer.lr=0.1", "+trainer.max_steps=4", "trainer.max_epochs=-1")
    whole, _ = trained(tmp_path / "whole", *PLAIN, *sgd, "data.batch_size=128")
    parts, _ = trained(tmp_path / "parts", *PLAIN, *sgd, "data.batch_size=32", "trainer.accumulate_grad_batches=4")
    other, _ = trained(tmp_path / "other", *PLAIN, *sgd, "data.batch_size=32")
    assert difference(whole, parts) < 1e-5
    assert difference(whole, other) > 1e-3


def test_clipped_gradients_bound_the_step(tmp_path: Path) -> None:
    sgd = ("optimizer=sgd", "optimizer.lr=1.0", "optimizer.momentum=0", "optimizer.nesterov=false", "trainer.max_epochs=-1")
    first, _ = trained(tmp_path / "first", *PLAIN, *sgd, "+trainer.max_steps=1", "trainer.gradient_clip_val=1e-3")
    second, _ = trained(tmp_path / "second", *PLAIN, *sgd, "+trainer.max_steps=2", "trainer.gradient_clip_val=1e-3")
    step = torch.stack([(second[name] - first[name]).double().square().sum() for name in first]).sum().sqrt()
    assert float(step) == pytest.approx(1e-3, rel=1e-3)


def test_clipping_in_bfloat16_is_that_of_float32(tmp_path: Path) -> None:
    # Fused, as by default, which Lightning would refuse; of a bound that all gradients exceed.
    settings = (
        *PLAIN,
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
        "trainer.max_epochs=-1",
    )
    fused = (*settings, "+optimizer.fused=true", "trainer.gradient_clip_val=1e-3", "trainer.precision=bf16-mixed")
    first, _ = trained(tmp_path / "first", *fused, "+trainer.max_steps=1")
    second, _ = trained(tmp_path / "second", *fused, "+trainer.max_steps=2")
    step = torch.stack([(second[name] - first[name]).double().square().sum() for name in first]).sum().sqrt()
    assert float(step) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpointed_activations_change_nothing(tmp_path: Path, precision: str) -> None:
    settings = (*QUICK, f"trainer.precision={precision}", "model.encoder.dropout=0.1", "trainer.limit_train_batches=3")
    kept, metrics = trained(tmp_path / "kept", *settings)
    again, others = trained(tmp_path / "again", *settings, "model.encoder.checkpoint_activations=true")
    assert difference(kept, again) == 0.0, "dropout included"
    assert metrics["train/loss"] == others["train/loss"]


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    settings = (*PLAIN, "optimizer.lr=5e-3", "trainer.max_epochs=3", "data.batch_size=64")
    _, exact = trained(tmp_path / "exact", *settings)
    weights, mixed = trained(tmp_path / "mixed", *settings, "trainer.precision=bf16-mixed")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    assert mixed["train/loss"] != exact["train/loss"], "otherwise nothing was computed in bfloat16"
    assert mixed["train/loss"] == pytest.approx(exact["train/loss"], rel=0.05)
    assert mixed["val/accuracy"] > 0.5
