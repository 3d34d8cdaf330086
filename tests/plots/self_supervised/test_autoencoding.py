"""Figures of multimodal autoencoders: every modality a picture, absent ones named, the label decoded without being seen."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from plots_cases import NAMES, batch, model
from torch import nn

from perceiver.adapters import ImagePatches, WaveformFrames
from perceiver.decoders import LearnedQueries, MultimodalDecoder, PositionalQueries
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.model import Perceiver
from perceiver.plots import Autoencodings, SampleGrid, VideoDrawing
from perceiver.plots.drawings import film_strip
from perceiver.tokens.positions import Fourier


def autoencoder() -> Perceiver:
    """Return a model that reconstructs images and sound, by frames of samples; points are read and not reconstructed."""
    built = model("image", "points")
    adapters: dict[str, nn.Module] = {
        **dict(built.adapters.items()),
        "image": ImagePatches(image_channels=3, patch=4, position=Fourier(num_bands=2, resolution=[3, 2])),
        "sound": WaveformFrames(
            frame=40, sample_rate=800, duration_seconds=1.0, position=Fourier(num_bands=2, resolution=[20])
        ),
    }
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})  # type: ignore[arg-type]
    plane, line = Fourier(num_bands=2, resolution=[3, 2]), Fourier(num_bands=2, resolution=[16])
    head = MultimodalDecoder(
        latent_channels=12,
        queries={
            "image": PositionalQueries(position=plane, grid=[3, 2]),
            "sound": PositionalQueries(position=line, modality="sound"),
            "label": LearnedQueries(grid=[1], channels=4),
        },
        output_channels={"label": len(NAMES)},
        adapters=adapters,
        target="label",
    )
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=5, latent_channels=12, num_layers_per_block=1, num_self_heads=2
    )
    spec = model("image", "sound", "points").spec
    return Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head, spec=spec).eval()


def test_a_row_for_each_sample() -> None:
    built = autoencoder()
    figures = Autoencodings(num_samples=4)(built, [batch("image", "sound", "points")])
    assert set(figures) == {"autoencoding"}
    axes = figures["autoencoding"].axes
    assert len(axes) == 8, "four samples, of two modalities that are reconstructed"
    assert all("; true: " in one.get_title(loc="left") for one in axes[::2])
    assert [text.get_text() for text in axes[7].texts] == ["no sound"], "the last sample has none"
    original = axes[1].lines[1].get_ydata()
    raw = batch("image", "sound", "points").inputs["sound"][0, 0] * 2.0
    np.testing.assert_allclose(np.asarray(original), raw.numpy(), rtol=1e-5)


def test_samples_show_the_decoded_label() -> None:
    figures = SampleGrid(num_samples=3)(autoencoder(), [batch("image", "sound", "points")])
    assert set(figures) == {"samples"}


def test_other_models_have_none() -> None:
    assert Autoencodings()(model(), [batch()]) == {}


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        Autoencodings(num_samples=0)


def test_film_strips() -> None:
    video = torch.arange(12.0).reshape(1, 3, 2, 2) / 11
    strip = film_strip(video)
    assert strip.shape == (2, 6)
    np.testing.assert_allclose(strip[:, 2:4], video[0, 1].numpy())
    assert film_strip(video.expand(3, -1, -1, -1), max_frames=2).shape == (2, 4, 3)


def test_attention_on_videos() -> None:
    axes = Figure().add_subplot()
    VideoDrawing().attention(axes, torch.rand(1, 4, 6, 6), None, torch.rand(2, 3, 3))
    frames, heat = (image.get_array() for image in axes.images)
    assert frames is not None
    assert heat is not None
    assert frames.shape == heat.shape == (6, 24)
