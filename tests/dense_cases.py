"""Small models and batches with a target on their grid."""

from typing import Any

import torch
from torch import Tensor

from perceiver import Encoder, Fourier, InputQueries, Perceiver, PooledHead, PositionalQueries, QueryDecoder
from perceiver.adapters import FrameSurroundings, ImagePixels
from perceiver.batch import Batch

HEIGHT, WIDTH = 6, 7
PLANE = Fourier(num_bands=2, resolution=(HEIGHT, WIDTH))


def decoded(adapter: Any, *, name: str, queries: Any, outputs: int, spec: Any = None, **settings: Any) -> Perceiver:
    encoder = Encoder(
        num_latents=4,
        latent_channels=16,
        token_channels=adapter.channels,
        num_blocks=1,
        num_layers_per_block=1,
        num_self_heads=2,
    )
    head = QueryDecoder(
        latent_channels=16, queries=queries, output_channels=outputs, token_channels=adapter.channels, **settings
    )
    return Perceiver(adapters={name: adapter}, encoder=encoder, head=head, spec=spec)


def segmenting(*, classes: int = 3, positions: bool = False, spec: Any = None, **settings: Any) -> Perceiver:
    """From images `(B, 2, H, W)` of any size, or of 6 x 7 pixels."""
    queries = PositionalQueries(position=PLANE, grid=[HEIGHT, WIDTH]) if positions else InputQueries(modality="image")
    adapter = ImagePixels(image_channels=2, position=PLANE)
    return decoded(adapter, name="image", queries=queries, outputs=classes, spec=spec, query_residual=True, **settings)


def flowing(*, spec: Any = None, **settings: Any) -> Perceiver:
    """From frames `(B, 1, 2, H, W)` of any size."""
    adapter = FrameSurroundings(video_channels=1, position=PLANE, embedding_channels=8)
    queries = InputQueries(modality="frames")
    return decoded(adapter, name="frames", queries=queries, outputs=2, spec=spec, query_residual=True, **settings)


def pooled() -> Perceiver:
    """A classifier."""
    adapter = ImagePixels(image_channels=2, position=PLANE)
    encoder = Encoder(num_latents=4, latent_channels=16, token_channels=adapter.channels, num_self_heads=2)
    return Perceiver(adapters={"image": adapter}, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=3))


def batch_of(modality: str, x: Tensor, target: Tensor, mask: Tensor | None = None) -> Batch:
    return Batch(inputs={modality: x}, target=target, target_mask=mask, ids=[f"sample/{number}" for number in range(len(x))])


def images(size: int = 3) -> Tensor:
    return torch.randn(size, 2, HEIGHT, WIDTH)


def frames(size: int = 3) -> Tensor:
    return torch.randn(size, 1, 2, HEIGHT, WIDTH)
