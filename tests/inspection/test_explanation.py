"""Explanations: rollout and integrated gradients have the properties that define them; deletion curves measure them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import perceiver
import perceiver.decoders
from perceiver import ClassificationDecoder, Encoder, Fourier, Fusion, Perceiver, PooledHead
from perceiver.adapters import ImagePixels, TextTokens
from perceiver.decoders import PerClassDecoder
from perceiver.inspection import attention_rollout, deletion_curve
from perceiver.inspection.gradients import integrated_gradients

SPEC = {
    "modalities": {
        "image": {"kind": "image", "shape": [1, 5, 4]},
        "text": {"kind": "text", "shape": [None], "vocabulary_size": 262},
    },
    "target": {"kind": "classes", "names": ["a", "b", "c"]},
}
HEADS: dict[str, Any] = {"pooled": PooledHead, "query": ClassificationDecoder, "per class": PerClassDecoder}
SAMPLE = {"image": np.arange(20, dtype=np.uint8).reshape(5, 4) * 12, "text": "abc"}


def model(head: str, **encoder: Any) -> Perceiver:
    """A classifier of images and texts."""
    torch.manual_seed(0)
    adapters: dict[str, Any] = {
        "image": ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(5, 4))),
        "text": TextTokens(
            vocabulary_size=262, embedding_channels=6, position=Fourier(num_bands=1, resolution=(8,)), std=1.0
        ),
    }
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    settings = {"num_latents": 4, "latent_channels": 8, "num_layers_per_block": 1, "num_self_heads": 2, "latent_std": 1.0}
    return Perceiver(
        adapters=adapters,
        fusion=fusion,
        encoder=Encoder(token_channels=fusion.channels, **{**settings, **encoder}),
        head=HEADS[head](latent_channels=8, num_classes=3),
        spec=SPEC,
    ).eval()


@pytest.mark.parametrize("head", HEADS)
def test_rollout(head: str) -> None:
    """Shares of each of two reads are kept through residuals: half of the second, a quarter or more of the first."""
    made = model(head, num_blocks=2, num_cross_attends=2)
    found = perceiver.explain(made, SAMPLE)
    assert found.tokens["image"].shape == (5, 4)
    assert found.tokens["text"].shape == (3,)
    total = sum(float(values.sum()) for values in found.tokens.values())
    assert total == pytest.approx(0.75, abs=1e-5)
    assert all((values >= 0).all() for values in found.tokens.values())
    assert sum(found.modalities.values()) == pytest.approx(1.0)
    assert found.prediction.label == made.predict(SAMPLE)[0].label
    assert found.output == "abc".index(found.prediction.label)
    alone = perceiver.explain(made, {"text": "abc"})
    assert alone.modalities == {"text": 1.0}


def test_rollout_through_uniform_self_attention() -> None:
    """It mixes the latents, and their mean stays: half the mean attention of the latents."""
    made = model("pooled")
    layer = made.encoder.blocks[0][0]  # type: ignore[index]
    with torch.no_grad():
        layer.attention.qkv.weight[:16] = 0
        layer.attention.qkv.bias[:16] = 0
    inputs = {"image": torch.rand(2, 1, 5, 4), "text": torch.randint(6, 262, (2, 7))}
    found = attention_rollout(made, made.tokens(inputs))
    [weights] = made.attention_weights(inputs)
    for name, reached in found.items():
        torch.testing.assert_close(reached[:, 0], 0.5 * weights[name].mean(dim=(1, 2)))


def test_masked_tokens_reach_nothing() -> None:
    made = model("pooled")
    mask = torch.rand(1, 5, 4) > 0.5
    tokens = made.tokens({"image": torch.rand(1, 1, 5, 4)}, {"image": mask})
    reached = attention_rollout(made, tokens)["image"][:, 0]
    assert bool((reached[~mask] == 0).all())
    assert bool((reached[mask] > 0).all())


def test_each_query_has_its_own_rollout() -> None:
    made = model("per class")
    first, second = (perceiver.explain(made, SAMPLE, output=number).tokens["image"] for number in (0, 1))
    assert not np.allclose(first, second)


def test_integrated_gradients_are_complete() -> None:
    """They sum to the difference of the output from that without content."""
    pytest.importorskip("captum")
    made = model("query")
    found = perceiver.explain(made, SAMPLE, method="integrated_gradients", steps=200)
    image = torch.from_numpy(SAMPLE["image"] / 255).float()[None, None]
    tokens = made.tokens({"image": image, "text": torch.tensor([[103, 104, 105]])})
    ours = integrated_gradients(made, tokens, output=found.output or 0, steps=200)
    empty = {name: type(one)((torch.zeros_like(one.parts[0]), *one.parts[1:]), one.mask) for name, one in tokens.items()}
    with torch.no_grad():
        difference = (made.from_tokens(tokens) - made.from_tokens(empty))[0, found.output]
    for name, values in found.tokens.items():
        np.testing.assert_allclose(values, ours[name][0], atol=1e-5)
    assert sum(float(values.sum()) for values in found.tokens.values()) == pytest.approx(float(difference), abs=2e-3)


def test_deletion_curve() -> None:
    """It starts with the prediction itself, and falls faster in the order of a faithful explanation than in reverse."""
    made = model("pooled")
    made.head = _Brightest()
    tokens = made.tokens({"image": torch.rand(1, 1, 5, 4)})
    values = tokens["image"].parts[0][..., 0]
    falling = deletion_curve(made, tokens, {"image": values}, output=1)
    rising = deletion_curve(made, tokens, {"image": -values}, output=1)
    with torch.no_grad():
        assert falling[0] == pytest.approx(float(made.from_tokens(tokens).softmax(dim=1)[0, 1]))
    assert sum(falling) < sum(rising)


class _Brightest(perceiver.decoders.Decoder):
    """The second output grows with the sum of the valid pixels."""

    output_channels = 2

    def forward(self, latents: torch.Tensor, *, tokens: Any = None, **unused: Any) -> torch.Tensor:
        block = tokens["image"]
        total = block.cleaned().parts[0].sum()
        return torch.stack([torch.zeros(()), total])[None]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"method": "lime"}, "explain.method: expected rollout or"), ({"output": 3}, "explain.output: expected 0 to 2, got 3")],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        perceiver.explain(model("pooled"), SAMPLE, **arguments)
    bare = model("pooled")
    bare.spec = None
    with pytest.raises(ValueError, match="has no spec"):
        perceiver.explain(bare, SAMPLE)
    assert isinstance(bare, nn.Module)
