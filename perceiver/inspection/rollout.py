"""Attention rollout: how much each token reaches each output, through all layers of attention.

Abnar and Zuidema 2020 (arXiv:2005.00928): the attention of a layer is averaged over its heads and, for the residual, with
the identity; the layers are multiplied. Here the first matrices are those of the encoder (`Encoder.rollout`), and the last
is the head's attention to the latents, or their mean for a pooled head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.cross import CrossAttention
from perceiver.model import Perceiver
from perceiver.tokens.tokens import Tokens


def attention_rollout(model: Perceiver, tokens: Mapping[str, Tokens]) -> dict[str, Float[Tensor, "batch outputs *grid"]]:
    """Return, for each modality, the share of each token in each output, `(B, O, *grid)`.

    O is the number of queries of the head; 1 for a pooled head. The shares of an output over all tokens sum to less than 1:
    the rest belongs to the learned latents.

    Args:
        model: a model in evaluation mode.
        tokens: its tokens, from `Perceiver.tokens`.
    """
    read: list[Tensor] = []

    def observe(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        assert isinstance(layer, CrossAttention)
        read.append(layer.weights(*given)[0].mean(dim=1))

    hooks = [layer.register_forward_hook(observe) for layer in model.head.modules() if isinstance(layer, CrossAttention)]
    try:
        with torch.no_grad():
            model.from_tokens(tokens)
            latents = model.rollout(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _read(latents_of, read) for name, latents_of in latents.items()}


def _read(latents: Float[Tensor, "batch latents *grid"], read: list[Tensor]) -> Float[Tensor, "batch outputs *grid"]:
    """Return what the head's queries read of the latents, query after query; the latents' mean without queries."""
    if not read:
        return latents.mean(dim=1, keepdim=True)
    flat = latents.flatten(2)
    reached = torch.cat([weights.expand(len(flat), -1, -1) @ flat for weights in read], dim=1)
    whole: Tensor = reached.unflatten(-1, latents.shape[2:])
    return whole
