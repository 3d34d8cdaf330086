"""Small models that generate images, in float64 with random weights, and their velocities by the dense formula."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perceiver import Fourier, Fusion, Interface, Perceiver, Tokens, VelocityHead
from perceiver.adapters import ImagePatches, Vector

CLASSES = 3


def model(
    *, attention: str = "auto", condition_dropout: float = 0.1, spec: dict[str, Any] | None = None, **settings: Any
) -> Perceiver:
    """Return a model of images of one channel, in patches of 2 x 2, with labels as conditions, in evaluation mode."""
    torch.manual_seed(0)
    image = ImagePatches(image_channels=1, patch=2, embed_channels=5, position=Fourier(num_bands=2, resolution=(4, 4)))
    adapters: dict[str, Any] = {"image": image, "label": Vector(vector_channels=CLASSES)}
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()}, padding=2)
    settings = {
        "num_latents": 3, "latent_channels": 8, "state_channels": 6, "num_blocks": 2, "num_layers_per_block": 1,
        "local_kernel": [3, 3], "num_cross_heads": 2, "num_write_heads": 2, "num_self_heads": 2, "time_bands": 2, **settings,
    }  # fmt: skip
    encoder = Interface(token_channels=fusion.channels, attention=attention, **settings)
    head = VelocityHead(
        state_channels=encoder.state_channels, adapters=adapters, modality="image", condition_dropout=condition_dropout
    )
    whole = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion, spec=spec)
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.4)
    return whole.double().eval()


def inputs(batch: int = 2, size: tuple[int, int] = (6, 8)) -> dict[str, Any]:
    """Return noisy images and labels."""
    labels = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(batch) % CLASSES]
    return {"image": torch.randn(batch, 1, *size, dtype=torch.float64), "label": labels}


def reference(encoder: Interface, blocks: Sequence[Tokens], *, state: int, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state `(B, M, d)` and the latents of an interface without self-conditioning: everything multiplied out."""
    weights = dict(encoder.state_dict())
    batch, grid = blocks[state].batch, blocks[state].grid
    own = blocks[state].dense()
    valid = blocks[state].dense_mask()
    valid = torch.ones(own.shape[:2], dtype=torch.bool) if valid is None else valid
    features = encoder.time(((2 * time - 1)[:, None],))[0].double()[:, None].expand(-1, own.shape[1], -1)
    own = torch.cat([own, features], dim=-1)
    x = linear(weights, "embed", own)
    latents = weights["latents"].expand(batch, -1, -1)
    padding = encoder.padding.detach()
    summary = _summary(weights, features[:, 0], [block for place, block in enumerate(blocks) if place != state], padding)
    for step in range(encoder.num_blocks):
        name = f"blocks.{step}"
        x = _modulated(weights, x, summary, step)
        if f"{name}.mix.weight" in weights:
            x = mixed(weights, f"{name}.mix", x, valid, grid)
        keys, masks = [], []
        for place, block in enumerate(blocks):
            dense, mask = block.dense().expand(batch, -1, -1), block.dense_mask()
            rest = padding.expand(batch, dense.shape[1], -1)
            keys.append(torch.cat([own, x], dim=-1) if place == state else torch.cat([dense, rest], dim=-1))
            masks.append(torch.ones(dense.shape[:2], dtype=torch.bool) if mask is None else mask.expand(batch, -1))
        latents = attend(weights, f"{name}.read", latents, torch.cat(keys, dim=1), torch.cat(masks, dim=1), heads=2)
        for layer in range(len(encoder.blocks[step].compute)):  # type: ignore[arg-type]
            latents = self_attend(weights, f"{name}.compute.{layer}", latents)
        whole = torch.ones(latents.shape[:2], dtype=torch.bool)
        x = attend(weights, f"{name}.write", x, latents, whole, heads=2)
    x = _modulated(weights, x, summary, encoder.num_blocks)
    return torch.where(valid[..., None], x, 0.0), latents


def _summary(weights: Mapping[str, Tensor], time: Tensor, conditions: Sequence[Tokens], padding: Tensor) -> Tensor | None:
    """Return the summary of time `(B, e)` and conditions that modulates the state, sample by sample."""
    if "modulation.condition.weight" not in weights:
        return None
    hidden = nn.functional.silu(linear(weights, "modulation.time.0", time))
    total = linear(weights, "modulation.time.2", hidden)
    for block in conditions:
        dense, mask = block.dense(), block.dense_mask()
        for sample in range(len(total)):
            row = dense[sample % len(dense)]
            valid = torch.ones(len(row), dtype=torch.bool) if mask is None else mask[sample % len(mask)]
            if valid.any():
                padded = torch.cat([row[valid], padding.expand(int(valid.sum()), -1)], dim=1)
                total[sample] += linear(weights, "modulation.condition", padded.mean(dim=0))
                if "modulation.hidden.weight" in weights:
                    seen = nn.functional.gelu(linear(weights, "modulation.hidden", padded))
                    total[sample] += linear(weights, "modulation.from_hidden", seen.mean(dim=0))
    return nn.functional.silu(total)


def _modulated(weights: Mapping[str, Tensor], x: Tensor, summary: Tensor | None, place: int) -> Tensor:
    if summary is None:
        return x
    scale, shift = linear(weights, f"modulation.affine.{place}", summary)[:, None].chunk(2, dim=-1)
    return x * (1 + scale) + shift


def linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def softmax_read(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, heads: int) -> Tensor:
    out = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).exp() * mask[:, None]
        out.append(scores @ v / scores.sum(-1, keepdim=True))
    return torch.cat(out, dim=-1)


def feed_forward(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = nn.functional.gelu(linear(weights, f"{name}.expand", norm(weights, f"{name}.norm", x)))
    return x + linear(weights, f"{name}.contract", hidden)


def attend(weights: Mapping[str, Tensor], name: str, x: Tensor, tokens: Tensor, mask: Tensor, *, heads: int) -> Tensor:
    own = f"{name}.attention"
    query = linear(weights, f"{own}.query", norm(weights, f"{own}.query_norm", x))
    normed = norm(weights, f"{own}.tokens.norm", tokens)
    key, value = linear(weights, f"{own}.tokens.key", normed), linear(weights, f"{own}.tokens.value", normed)
    x = x + linear(weights, f"{own}.output", softmax_read(query, key, value, mask, heads))
    return feed_forward(weights, f"{name}.feed_forward", x)


def self_attend(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    query, key, value = linear(weights, f"{name}.attention.qkv", norm(weights, f"{name}.attention.norm", x)).chunk(3, -1)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    x = x + linear(weights, f"{name}.attention.output", softmax_read(query, key, value, mask, 2))
    return feed_forward(weights, f"{name}.feed_forward", x)


def mixed(weights: Mapping[str, Tensor], name: str, x: Tensor, valid: Tensor, grid: Sequence[int]) -> Tensor:
    """Add up the neighbours of each token of a two-axis grid, one at a time."""
    rows, columns = grid
    normed = torch.where(valid[..., None], norm(weights, f"{name}.norm", x), 0.0).unflatten(1, (rows, columns))
    kernel = weights[f"{name}.weight"]
    out = weights[f"{name}.bias"].expand(normed.shape).clone()
    for row in range(rows):
        for column in range(columns):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if 0 <= r < rows and 0 <= c < columns:
                        out[:, row, column] += normed[:, r, c] * kernel[:, 0, i, j]
    return x + linear(weights, f"{name}.output", nn.functional.gelu(out)).flatten(1, 2)
