"""One adapter for several modalities: the same weights in Python, in a configuration and in a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver
from perceiver.adapters import SharedAdapter
from perceiver.checkpoints.build import ConfigError, build_model

IMAGE = {
    "_target_": "perceiver.adapters.image.ImagePixels",
    "image_channels": 1,
    "position": {"_target_": "perceiver.tokens.positions.Fourier", "num_bands": 2, "resolution": [4, 4]},
}


def config(**adapters: Any) -> dict[str, Any]:
    return {
        "_target_": "perceiver.model.Perceiver",
        "adapters": adapters,
        "encoder": {
            "_target_": "perceiver.encoders.encoder.Encoder",
            "num_latents": 3,
            "latent_channels": 8,
            "num_self_heads": 2,
        },
        "head": {"_target_": "perceiver.decoders.pooled.PooledHead", "num_classes": 2},
    }


def shared(modality: str) -> dict[str, Any]:
    return {"_target_": "perceiver.adapters.shared.SharedAdapter", "modality": modality}


def test_both_modalities_have_the_same_weights(tmp_path: Path) -> None:
    model = build_model(config(photo=IMAGE, sketch=shared("photo")))
    assert model.adapters["sketch"] is model.adapters["photo"]
    assert set(model.fusion.padding) == {"photo", "sketch"}
    model({"sketch": torch.rand(2, 1, 4, 4)}).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    perceiver.save(model, tmp_path / "model.ckpt")
    loaded = perceiver.load(tmp_path / "model.ckpt")
    assert loaded.adapters["sketch"] is loaded.adapters["photo"]
    x = {"sketch": torch.rand(2, 1, 4, 4)}
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("modality", ["nothing", "sketch", "third"])
def test_it_needs_an_adapter(modality: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.adapters\.sketch\.modality: expected .* one of \['photo'\], got"):
        build_model(config(photo=IMAGE, sketch=shared(modality), third=shared("photo")))


def test_alone_it_computes_nothing() -> None:
    with pytest.raises(RuntimeError, match="expected a perceiver.Perceiver with an adapter of 'photo'"):
        SharedAdapter(modality="photo")(torch.rand(2, 1, 4, 4))
