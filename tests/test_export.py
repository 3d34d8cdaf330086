"""`torch.export` with open batch size and lengths: one program serves them all, in every form of attention."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from warm_process import python

from perceiver import Encoder, Fourier, Fusion, LearnedQueries, Perceiver, PooledHead, QueryDecoder
from perceiver.adapters import ImagePixels, Points, TextTokens


class Both(nn.Module):
    """A model with a pooled head, and one with a decoder of an output for each token, around one encoder."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        position, plane, cloud = (Fourier(num_bands=2, resolution=sizes) for sizes in ((16,), (8, 8), (8, 8, 8)))
        adapters: dict[str, Any] = {
            "text": TextTokens(vocabulary_size=50, embedding_channels=8, position=position),
            "points": Points(point_channels=5, position=cloud),
            "image": ImagePixels(image_channels=3, position=plane),
        }
        fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
        encoder = Encoder(
            token_channels=fusion.channels,
            num_latents=4,
            latent_channels=16,
            num_layers_per_block=1,
            num_self_heads=2,
            attention=attention,  # type: ignore[arg-type]
        )
        queries = LearnedQueries(grid=[64], channels=8, modality="text")
        heads = {
            "pooled": PooledHead(latent_channels=16, num_classes=3),
            "query": QueryDecoder(latent_channels=16, queries=queries, output_channels=2),
        }
        self.models = nn.ModuleDict(
            {name: Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head) for name, head in heads.items()}
        )

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Any]:
        """The outputs of both."""
        return {name: model(inputs, masks) for name, model in self.models.items()}


def arguments(batch: int, length: int, points: int, height: int, width: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and masks."""
    inputs = {
        "text": torch.randint(50, (batch, length)),
        "points": torch.randn(batch, points, 5),
        "image": torch.rand(batch, 3, height, width),
    }
    return inputs, {"text": torch.rand(batch, length) > 0.3}


def export_all() -> None:
    """What the test below runs."""
    batch, length, points = Dim("batch", min=1, max=64), Dim("length", min=2, max=60), Dim("points", min=2, max=500)
    height, width = Dim("height", min=2, max=64), Dim("width", min=2, max=64)
    shapes = (
        {"text": {0: batch, 1: length}, "points": {0: batch, 1: points}, "image": {0: batch, 2: height, 3: width}},
        {"text": {0: batch, 1: length}},
    )
    torch.manual_seed(0)
    for attention in ("dense", "factored"):
        model = Both(attention).eval()
        program = torch.export.export(model, arguments(3, 8, 20, 6, 9), dynamic_shapes=shapes).module()
        for sizes in ((3, 8, 20, 6, 9), (1, 23, 7, 30, 5), (5, 2, 300, 7, 33)):
            inputs, masks = arguments(*sizes)
            torch.testing.assert_close(program(inputs, masks), model(inputs, masks), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_export_with_open_sizes() -> None:
    """In a process of its own: the shape checks that the tests' import hook adds are not made for open sizes."""
    code = f"import runpy; runpy.run_path({__file__!r})['export_all']()"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
