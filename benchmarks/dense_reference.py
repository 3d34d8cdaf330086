"""The frozen dense reference: a Perceiver classifier as published, in plain PyTorch, without this package's code.

Positions are concatenated to every element once per forward (their features are computed once per model, which favours the
reference over published implementations). Each cross-attend normalises all tokens, projects keys and values and attends
with `F.scaled_dot_product_attention`, padded to a multiple of 8 so that it stays on its fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, tokens: Tensor, norm: nn.LayerNorm, key: nn.Linear, value: nn.Linear, *, num_heads: int) -> Tensor:
    """Attend from queries `(B or 1, h, N, d)` to tokens `(B, M, C)` -> `(B, h, N, d)`; keys and values of equal width."""
    width = query.shape[-1]
    padding = -width % 8
    normed = F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, norm.eps)

    def heads(layer: nn.Linear) -> Tensor:
        weight = F.pad(layer.weight.unflatten(0, (num_heads, width)), (0, 0, 0, padding)).flatten(0, 1)
        bias = F.pad(layer.bias.unflatten(0, (num_heads, width)), (0, padding)).flatten()
        return F.linear(normed, weight, bias).unflatten(-1, (num_heads, width + padding)).transpose(1, 2)

    padded = F.pad(query, (0, padding)).expand(tokens.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(padded, heads(key), heads(value), scale=width**-0.5)[..., :width]


def fourier_features(grid: Sequence[int], bands: int) -> Tensor:
    """Return `(*grid, axes * (2 * bands + 1))`: coordinate, sines and cosines per axis, with bands up to Nyquist."""
    features = []
    for axis, size in enumerate(grid):
        position = torch.linspace(-1, 1, size)[:, None]
        phase = math.pi * position * torch.linspace(1, size / 2, bands)
        feature = torch.cat([position, phase.sin(), phase.cos()], dim=-1)
        shape = [size if other == axis else 1 for other in range(len(grid))]
        features.append(feature.reshape(*shape, -1).expand(*grid, -1))
    return torch.cat(features, dim=-1)


class FeedForward(nn.Module):
    """Feed-forward layer: norm, linear, GELU, linear; widening 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.contract = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(self.norm(x))))


class CrossLayer(nn.Module):
    """Cross-attention with a single head of the tokens' width `kv_width`, residual, feed-forward."""

    def __init__(self, width: int, kv_width: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, kv_width)
        self.token_norm = nn.LayerNorm(kv_width)
        self.key = nn.Linear(kv_width, kv_width)
        self.value = nn.Linear(kv_width, kv_width)
        self.output = nn.Linear(kv_width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(self.query_norm(x))[:, None]
        read = attend(query, tokens, self.token_norm, self.key, self.value, num_heads=1)
        x = x + self.output(read[:, 0])
        return x + self.feed_forward(x)


class SelfLayer(nn.Module):
    """Self-attention with a joint projection, residual, feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value)
        x = x + self.output(read.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class DenseClassifier(nn.Module):
    """Perceiver classifier `(B, C, *grid)` -> logits, with a pooled head or a decoder with a single learned query.

    Weights are shared as published: all cross-attends but the first share weights, and all blocks are the same block.
    """

    def __init__(
        self,
        *,
        grid: Sequence[int],
        channels: int,
        bands: int,
        num_latents: int,
        width: int,
        num_cross_attends: int,
        num_blocks: int,
        num_layers: int,
        num_heads: int,
        num_classes: int,
        decoder: bool,
    ) -> None:
        super().__init__()
        self.positions = nn.Buffer(fourier_features(grid, bands), persistent=False)
        self.num_blocks = num_blocks
        self.num_cross_attends = num_cross_attends
        self.latents = nn.Parameter(torch.randn(num_latents, width) * 0.02)
        kv_width = channels + self.positions.shape[-1]
        self.cross_layers = nn.ModuleList(CrossLayer(width, kv_width) for _ in range(min(num_cross_attends, 2)))
        self.block = nn.Sequential(*(SelfLayer(width, num_heads) for _ in range(num_layers)))
        self.query = nn.Parameter(torch.randn(1, width) * 0.02) if decoder else None
        self.decoder = CrossLayer(width, width) if decoder else None
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        content = x.movedim(1, -1)
        tokens = torch.cat([content, self.positions.expand(x.shape[0], *self.positions.shape)], dim=-1).flatten(1, -2)
        latents = self.latents.expand(x.shape[0], -1, -1)
        for step in range(self.num_blocks):
            if step < self.num_cross_attends:
                latents = self.cross_layers[min(step, 1)](latents, tokens)
            latents = self.block(latents)
        if self.decoder is None:
            return self.head(latents.mean(dim=1))
        return self.head(self.decoder(self.query.expand(x.shape[0], -1, -1), latents)[:, 0])
