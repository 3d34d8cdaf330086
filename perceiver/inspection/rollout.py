"""Attention rollout: how much each token reaches each output, through all layers of attention.

Abnar and Zuidema 2020 (arXiv:2005.00928): the attention of a layer is averaged over its heads and, for the residual, with
the identity; the layers are multiplied. Here the first matrices are cross-attends from latents to tokens, and the last is
the head's attention to the latents, or their mean for a pooled head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.cross import CrossAttention
from perceiver.attention.projection import split_heads
from perceiver.attention.self_attention import SelfAttention
from perceiver.model import Perceiver
from perceiver.tokens import Tokens


def attention_rollout(model: Perceiver, tokens: Mapping[str, Tokens]) -> dict[str, Float[Tensor, "batch outputs *grid"]]:
    """Return, for each modality, the share of each token in each output, `(B, O, *grid)`.

    O is the number of queries of the head; 1 for a pooled head. The shares of an output over all tokens sum to less than 1:
    the rest belongs to the learned latents.

    Args:
        model: a model in evaluation mode.
        tokens: its tokens, from `Perceiver.tokens`.
    """
    names = list(tokens)
    sizes = [tokens[name].num_tokens for name in names]
    batch = max(block.batch for block in tokens.values())
    latents = torch.zeros(batch, model.encoder.num_latents, sum(sizes), device=tokens[names[0]].device)
    outputs: list[Tensor] = []
    in_head = {id(module) for module in model.head.modules()}

    def cross(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        nonlocal latents
        assert isinstance(layer, CrossAttention)
        queries, blocks = given
        weights = [one.mean(dim=1) for one in layer.weights(queries, blocks)]
        if id(layer) in in_head:
            outputs.append(weights[0].expand(batch, -1, -1) @ latents)
            return
        read = torch.zeros_like(latents)
        for block, weight in zip(blocks, weights, strict=True):
            place = next((place for place, name in enumerate(names) if tokens[name] is block), None)
            if place is not None:
                start = sum(sizes[:place])
                read[..., start : start + sizes[place]] = weight.flatten(2)
        latents = 0.5 * read + 0.5 * latents

    def own(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        nonlocal latents
        assert isinstance(layer, SelfAttention)
        latents = 0.5 * _weights(layer, given[0]) @ latents + 0.5 * latents

    hooks = [layer.register_forward_hook(cross) for layer in model.modules() if isinstance(layer, CrossAttention)]
    hooks += [layer.register_forward_hook(own) for layer in model.modules() if isinstance(layer, SelfAttention)]
    try:
        with torch.no_grad():
            model.from_tokens(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    reached = torch.cat(outputs, dim=1) if outputs else latents.mean(dim=1, keepdim=True)
    pieces = reached.split(sizes, dim=-1)
    return {name: piece.unflatten(-1, tokens[name].grid) for name, piece in zip(names, pieces, strict=True)}


def _weights(layer: SelfAttention, x: Tensor) -> Float[Tensor, "batch latents latents"]:
    """Return the attention weights of a layer, averaged over its heads."""
    query, key, _ = (split_heads(part, layer.num_heads) for part in layer.qkv(layer.norm(x)).split(layer.widths, dim=-1))
    weights: Tensor = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return weights.mean(dim=1)
