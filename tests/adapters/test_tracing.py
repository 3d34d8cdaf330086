"""Adapters whose inputs are checked by value are traced whole nevertheless, by `torch.compile` and `torch.export`."""

import pytest
import torch
from warm_process import python

from perceiver import Encoder, Fourier, Fusion, Perceiver, PooledHead
from perceiver.adapters import Table, TextTokens, TimeSeries, VideoPatches


def trace_all() -> None:
    """What the test below runs."""
    adapters = {
        "video": VideoPatches(
            video_channels=3, patch=(2, 4, 4), embedding_channels=8, position=Fourier(num_bands=2, resolution=(4, 4, 4))
        ),
        "text": TextTokens(vocabulary_size=50, embedding_channels=8, position=Fourier(num_bands=2, resolution=(16,))),
        "irregular": TimeSeries(num_values=2, duration_seconds=10.0, position=Fourier(num_bands=2, resolution=(16,))),
        "regular": TimeSeries(
            num_values=2, duration_seconds=10.0, step_seconds=1.0, position=Fourier(num_bands=2, resolution=(16,))
        ),
        "table": Table(num_numbers=2, category_sizes=[3, 4], embedding_channels=6),
    }
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=4, latent_channels=16, num_layers_per_block=1, num_self_heads=2
    )
    head = PooledHead(latent_channels=16, num_classes=3)
    model = Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head).eval()
    times = torch.rand(3, 6, dtype=torch.float64).cumsum(1) + 1e9
    inputs = {
        "video": torch.randn(3, 3, 5, 9, 8),
        "text": torch.randint(50, (3, 7)),
        "irregular": {"values": torch.randn(3, 6, 2), "times": times, "present": torch.rand(3, 6, 2) > 0.5},
        "regular": {"values": torch.randn(3, 6, 2)},
        "table": {
            "numbers": torch.randn(3, 2),
            "categories": torch.tensor([[1, 2], [0, 3], [2, 0]]),
            "present": torch.rand(3, 4) > 0.5,
        },
    }
    masks = {
        "video": torch.rand(3, 5, 9, 8) > 0.3,
        "text": torch.rand(3, 7) > 0.3,
        "irregular": torch.rand(3, 6) > 0.3,
        "table": torch.tensor([True, False, True]),
    }
    expected = model(inputs, masks)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(inputs, masks)
    torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=2e-6)
    exported = torch.export.export(model, (inputs, masks)).module()(inputs, masks)
    torch.testing.assert_close(exported, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_traced_whole() -> None:
    """In a process of its own: dynamo cannot trace the shape checks that the tests' import hook adds."""
    code = f"import runpy; runpy.run_path({__file__!r})['trace_all']()"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
