"""A small model around one adapter, as tests of adapters need it."""

import torch
from torch import nn

from perceiver.attention import Form
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.model import Perceiver


def small_encoder(channels: int, *, attention: Form = "auto") -> Encoder:
    """Four latents of eight channels."""
    return Encoder(
        token_channels=channels,
        num_latents=4,
        latent_channels=8,
        num_layers_per_block=1,
        num_self_heads=2,
        attention=attention,
    )


def model_around(name: str, adapter: nn.Module, *, attention: Form = "auto") -> Perceiver:
    """A classifier of three classes that reads one modality, always with the same weights."""
    torch.manual_seed(1)
    encoder = small_encoder(adapter.channels, attention=attention)  # type: ignore[arg-type]
    return Perceiver(adapters={name: adapter}, encoder=encoder, head=PooledHead(latent_channels=8, num_classes=3))
