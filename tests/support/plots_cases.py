"""A model of an image, sound, points and readings of a kind that the package does not know; nothing is trained."""

from typing import Any

import torch
from torch import Tensor, nn

from perceiver.adapters.audio import LogMelFrames
from perceiver.adapters.image import ImagePatches
from perceiver.adapters.points import Points
from perceiver.decoders import ClassificationDecoder
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.model import Perceiver
from perceiver.samples.batch import Batch
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens

MODALITIES: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "shape": [3, 9, 8], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "range": [0, 255]},
    "sound": {"kind": "audio", "shape": [1, None], "sample_rate": 800, "mean": [0.0], "std": [2.0]},
    "points": {"kind": "points", "shape": [None, 4]},
    "readings": {"kind": "thermometer", "shape": [None, 2], "channel_axis": -1},
}
NAMES = ["cat", "dog", "owl"]


class Readings(nn.Module):
    """A modality of a user's own, `(B, T, 2)`: the place in time is its position."""

    channels = 3

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        time = torch.arange(x.shape[1], dtype=x.dtype)[None, :, None] / 12
        return Tokens(parts=(x, time), mask=mask if mask is None or mask.ndim == 2 else mask[:, None].expand(x.shape[:2]))


def model(*modalities: str, head: str = "decoder", num_cross_heads: int = 3) -> Perceiver:
    """A Perceiver of two cross-attends over some of the modalities, with a spec."""
    torch.manual_seed(0)
    adapters: dict[str, nn.Module] = {
        "image": ImagePatches(image_channels=3, patch=4, position=Fourier(num_bands=2, resolution=[3, 2])),
        "sound": LogMelFrames(
            sample_rate=800,
            num_mels=8,
            window_seconds=0.08,
            hop_seconds=0.05,
            duration_seconds=1.0,
            position=Fourier(num_bands=2, resolution=[20]),
        ),
        "points": Points(point_channels=4, position=Fourier(num_bands=2, resolution=[8, 8, 8])),
        "readings": Readings(),
    }
    adapters = {name: adapters[name] for name in modalities or MODALITIES}
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})  # type: ignore[arg-type]
    encoder = Encoder(
        token_channels=fusion.channels,
        num_latents=5,
        latent_channels=12,
        num_cross_attends=2,
        num_blocks=2,
        num_layers_per_block=1,
        num_self_heads=2,
        num_cross_heads=num_cross_heads if fusion.channels % num_cross_heads == 0 else 1,
        share_cross_attends=False,
        latent_std=1.0,
    )
    heads = {
        "decoder": ClassificationDecoder(latent_channels=12, num_classes=3, num_heads=2, query_std=1.0),
        "pooled": PooledHead(latent_channels=12, num_classes=3),
    }
    spec = {
        "modalities": {name: MODALITIES[name] for name in adapters},
        "target": {"kind": "classes", "names": NAMES},
        "num_classes": 3,
    }
    return Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=heads[head], spec=spec).eval()


def batch(*modalities: str) -> Batch:
    """Four samples: the second shorter than the first, the third without points, the fourth with nothing but an image."""
    torch.manual_seed(1)
    inputs: dict[str, Any] = {
        "image": torch.randn(4, 3, 9, 8),
        "sound": torch.randn(4, 1, 640),
        "points": torch.randn(4, 30, 4),
        "readings": torch.randn(4, 12, 2),
    }
    masks = {name: torch.ones(4, inputs[name].shape[2 if name == "sound" else 1], dtype=torch.bool) for name in inputs}
    masks.pop("image")
    for name, mask in masks.items():
        mask[1, mask.shape[1] // 2 :] = False
        mask[3] = False
        if name == "points":
            mask[2] = False
            mask[1, 3] = False  # a hole
    chosen = modalities or tuple(inputs)
    return Batch(
        inputs={name: inputs[name] for name in chosen},
        masks={name: mask for name, mask in masks.items() if name in chosen},
        target=torch.tensor([0, 1, 2, 0]),
        ids=["a/0", "a/1", "a/2", "a/3"],
    )
