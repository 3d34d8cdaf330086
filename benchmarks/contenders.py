"""The models that `peers.py` compares, built for a given size: ours, the dense reference, and peers from PyPI.

Peers are not subclassed or changed. If a peer's constructor cannot build the size, its layers are combined accordingly.
Remaining differences are listed in the contender's note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from dense_reference import DenseClassifier, fourier_features
from torch import Tensor, nn

from perceiver import (
    ClassificationDecoder,
    Encoder,
    Fourier,
    Perceiver,
    PooledHead,
    Tokens,
)
from perceiver.adapters import ImagePixels
from perceiver.tokens.positions import grid_coordinates


@dataclass(frozen=True)
class Size:
    """A classifier of a grid of `channels` values with Fourier positions.

    Args:
        bands: Fourier bands per axis.
        decoder: use a decoder with a single learned query (Perceiver IO) instead of the mean over the latents.
        published: parameter count of the published model, which ours must match; 0 without a published model.
        heavy: peers and reference take minutes and tens of gigabytes, and run only on request.
    """

    name: str
    grid: tuple[int, ...]
    channels: int
    bands: int
    num_latents: int
    width: int
    num_cross_attends: int
    num_blocks: int
    num_layers: int
    num_heads: int = 8
    num_classes: int = 1000
    decoder: bool = False
    published: int = 0
    heavy: bool = False

    @property
    def num_tokens(self) -> int:
        return prod(self.grid)

    @property
    def token_channels(self) -> int:
        return self.channels + len(self.grid) * (2 * self.bands + 1)

    def small(self) -> Size:
        """Return a tiny model of the same kind, to warm up or to test the script."""
        return replace(
            self,
            grid=tuple(min(size, 6) for size in self.grid),
            bands=min(self.bands, 4),
            num_latents=8,
            width=8 * self.num_heads,
            num_layers=1,
            num_classes=10,
            published=0,
        )


@dataclass(frozen=True)
class Contender:
    """A model `(B, C, *grid)` -> logits `(B, classes)`, with a note on its differences from ours in size or work."""

    name: str
    model: nn.Module
    note: str

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


class GridElements(nn.Module):
    """An adapter for grids of any rank, such as videos: each token has an element's channels and its position."""

    def __init__(self, *, channels: int, position: Fourier) -> None:
        super().__init__()
        self.position = position
        self.channels = channels + position.channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        position = self.position(grid_coordinates(x.shape[2:], device=x.device))
        return Tokens(parts=(x.movedim(1, -1), *position), mask=mask)


class Alone(nn.Module):
    """Wrapper that calls a model of a single modality with a tensor."""

    def __init__(self, model: Perceiver) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model({"input": x})
        return logits

    def explain(self, x: Tensor) -> str:
        """Describe the form and implementation of cross-attention."""
        with torch.no_grad():
            return self.model.encoder.explain_attention(list(self.model.tokens({"input": x}).values()))


def ours(size: Size) -> Contender:
    """Return this package's model with `attention=auto`."""
    model = our_model(size)
    with torch.no_grad():
        return Contender("ours", model, model.explain(torch.zeros(1, size.channels, *size.grid)))


def our_model(size: Size) -> Alone:
    """Return this package's model without a note."""
    position = Fourier(num_bands=size.bands, resolution=size.grid)
    adapter: nn.Module
    if len(size.grid) == 2:
        adapter = ImagePixels(image_channels=size.channels, position=position)
    else:
        adapter = GridElements(channels=size.channels, position=position)
    encoder = Encoder(
        token_channels=size.token_channels,
        num_latents=size.num_latents,
        latent_channels=size.width,
        num_cross_attends=size.num_cross_attends,
        num_blocks=size.num_blocks,
        num_layers_per_block=size.num_layers,
        num_self_heads=size.num_heads,
    )
    kind = ClassificationDecoder if size.decoder else PooledHead
    head = kind(latent_channels=size.width, num_classes=size.num_classes)
    return Alone(Perceiver(adapters={"input": adapter}, encoder=encoder, head=head))


def dense_reference(size: Size) -> Contender:
    """Return the model of `dense_reference.py`: the same function and parameters as ours, dense and on SDPA."""
    model = DenseClassifier(
        grid=size.grid,
        channels=size.channels,
        bands=size.bands,
        num_latents=size.num_latents,
        width=size.width,
        num_cross_attends=size.num_cross_attends,
        num_blocks=size.num_blocks,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        num_classes=size.num_classes,
        decoder=size.decoder,
    )
    return Contender("dense reference", model, "the same function as ours; SDPA; positions computed once per model")


class TransformersInterleaved(nn.Module):
    """An interleaved Perceiver with a pooled head, built from transformers' preprocessor and layers."""

    def __init__(self, config: object, preprocessor: nn.Module, size: Size) -> None:
        super().__init__()
        from transformers.models.perceiver.modeling_perceiver import PerceiverEmbeddings, PerceiverLayer

        self.size = size
        self.preprocessor = preprocessor
        self.embeddings = PerceiverEmbeddings(config)
        self.cross_layers = nn.ModuleList(
            PerceiverLayer(
                config,
                is_cross_attention=True,
                num_heads=1,
                q_dim=size.width,
                kv_dim=preprocessor.num_channels,
                widening_factor=1,
            )
            for _ in range(min(size.num_cross_attends, 2))
        )
        self.block = nn.ModuleList(
            PerceiverLayer(config, num_heads=size.num_heads, q_dim=size.width, kv_dim=size.width, widening_factor=1)
            for _ in range(size.num_layers)
        )
        self.head = nn.Linear(size.width, size.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.preprocessor(x)[0]
        latents = self.embeddings(batch_size=x.shape[0])
        for step in range(self.size.num_blocks):
            if step < self.size.num_cross_attends:
                latents = self.cross_layers[min(step, 1)](latents, inputs=tokens)[0]
            for layer in self.block:
                latents = layer(latents)[0]
        logits: Tensor = self.head(latents.mean(dim=1))
        return logits


class TransformersLogits(nn.Module):
    """Wrapper that calls a transformers model with a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs=x).logits
        return logits


class FramesFirst(nn.Module):
    """Wrapper that passes videos `(B, C, T, H, W)` to a model that takes `(B, T, C, H, W)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.transpose(1, 2))
        return logits


def transformers_perceiver(size: Size) -> Contender:
    """Return transformers' Perceiver with random weights; it supports eager attention only."""
    from transformers import PerceiverConfig, PerceiverModel
    from transformers.models.perceiver.modeling_perceiver import PerceiverClassificationDecoder, PerceiverImagePreprocessor

    config = PerceiverConfig(
        num_latents=size.num_latents,
        d_latents=size.width,
        num_blocks=size.num_blocks,
        num_self_attends_per_block=size.num_layers,
        num_self_attention_heads=size.num_heads,
        num_cross_attention_heads=1,
        attention_probs_dropout_prob=0.0,
        num_labels=size.num_classes,
    )
    preprocessor = PerceiverImagePreprocessor(
        config,
        prep_type="pixels",
        spatial_downsample=1,
        in_channels=size.channels,
        fourier_position_encoding_kwargs={
            "concat_pos": True,
            "max_resolution": size.grid,
            "num_bands": size.bands,
            "sine_only": False,
        },
    )
    note = "eager attention; positions computed in each forward, as the library does"
    if size.decoder and size.num_cross_attends == 1:
        # The model of PerceiverForImageClassificationFourier, but with a configurable resolution.
        decoder = PerceiverClassificationDecoder(
            config,
            num_channels=size.width,
            trainable_position_encoding_kwargs={"num_channels": size.width, "index_dims": 1},
            use_query_residual=True,
        )
        model: nn.Module = TransformersLogits(PerceiverModel(config, decoder=decoder, input_preprocessor=preprocessor))
        return Contender("transformers", model, note)
    model = TransformersInterleaved(config, preprocessor, size)
    if len(size.grid) == 3:
        model = FramesFirst(model)
    note += "; built from its layers, because its encoder reads the input once and has no pooled head"
    return Contender("transformers", model, note)


class ChannelsLast(nn.Module):
    """Wrapper that passes `(B, C, *grid)` to a model that takes `(B, *grid, C)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.movedim(1, -1))
        return logits


class PerceiverPytorchIO(nn.Module):
    """Wrapper of perceiver-pytorch's PerceiverIO, which takes tokens with positions, and queries, as arguments."""

    def __init__(self, model: nn.Module, size: Size) -> None:
        super().__init__()
        self.model = model
        self.positions = nn.Buffer(fourier_features(size.grid, size.bands).flatten(0, -2), persistent=False)
        self.query = nn.Parameter(torch.randn(1, size.width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.positions.expand(x.shape[0], *self.positions.shape)
        tokens = torch.cat([x.flatten(2).transpose(1, 2), positions], dim=-1)
        logits: Tensor = self.model(tokens, queries=self.query)[:, 0]
        return logits


def perceiver_pytorch(size: Size) -> Contender:
    """Return perceiver-pytorch's Perceiver, or its PerceiverIO for sizes with a decoder."""
    if size.decoder:
        from perceiver_pytorch import PerceiverIO

        depth = size.num_blocks * size.num_layers
        decoding = PerceiverIO(
            depth=depth,
            dim=size.token_channels,
            queries_dim=size.width,
            logits_dim=size.num_classes,
            num_latents=size.num_latents,
            latent_dim=size.width,
            cross_heads=1,
            latent_heads=size.num_heads,
            cross_dim_head=size.token_channels,
            latent_dim_head=size.width // size.num_heads,
            weight_tie_layers=True,
            decoder_ff=True,
        )
        note = (
            f"eager attention; feed-forward GEGLU with widening 4 (ours: GELU, 1); one set of weights for all {depth} "
            f"layers (ours: {size.num_layers}), because it shares all or no layers; decoder's keys and values "
            f"{size.token_channels} wide (ours: {size.width}); positions computed once per model"
        )
        return Contender("perceiver-pytorch", PerceiverPytorchIO(decoding, size), note)
    from perceiver_pytorch import Perceiver as PerceiverPytorch

    model = PerceiverPytorch(
        num_freq_bands=size.bands,
        max_freq=max(size.grid),
        depth=size.num_blocks,
        input_channels=size.channels,
        input_axis=len(size.grid),
        num_latents=size.num_latents,
        latent_dim=size.width,
        cross_heads=1,
        latent_heads=size.num_heads,
        cross_dim_head=size.token_channels,
        latent_dim_head=size.width // size.num_heads,
        num_classes=size.num_classes,
        weight_tie_layers=True,
        self_per_cross_attn=size.num_layers,
    )
    note = (
        "eager attention; feed-forward GEGLU with widening 4 (ours: GELU, 1); the first block has separate weights (ours: "
        "shared); positions computed in each forward, as the library does"
    )
    if size.num_cross_attends != size.num_blocks:
        raise ValueError(
            f"{size.name}: perceiver-pytorch requires as many cross-attends as blocks ({size.num_blocks}), got "
            f"{size.num_cross_attends}."
        )
    return Contender("perceiver-pytorch", ChannelsLast(model), note)


OURS = {"ours": ours}
REFERENCE = {"dense reference": dense_reference}
PEERS: dict[str, Callable[[Size], Contender]] = {
    "transformers": transformers_perceiver,
    "perceiver-pytorch": perceiver_pytorch,
}
CONTENDERS: dict[str, Callable[[Size], Contender]] = {**OURS, **REFERENCE, **PEERS}
