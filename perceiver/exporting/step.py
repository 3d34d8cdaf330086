"""A step of a causal decoder as a `torch.export` program: the cache is an input and an output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perceiver.attention.causal import PastKeys
from perceiver.attention.projected import ProjectedTokens
from perceiver.decoders import CausalDecoder
from perceiver.decoders.causal import Cache, CausalLayer
from perceiver.exported.sequences import memory_names, past_names, present_names
from perceiver.exporting.program import located, without_shape_checks
from perceiver.runtime.evaluating import evaluating

_ROWS, _TOKENS, _LENGTH = 5, 13, 3
"""Sizes of the example, none of which is 1, or equal to another."""


class Step(nn.Module):
    """The next id's logits, from one id and the cache.

    Args:
        decoder: the decoder.
    """

    def __init__(self, decoder: CausalDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map ids `(R, 1)`, the memory, and keys and values of the S ids so far to logits `(R, 1, V)` and those of S + 1."""
        layers = len(self.decoder.layers)
        ids, mask = tensors[:2]
        keys = tensors[2 : 2 + 2 * layers]
        past = tensors[2 + 2 * layers :]
        cache = Cache(
            memory=tuple(ProjectedTokens(key=key, value=value, mask=mask) for key, value in _pairs(keys)),
            past=tuple(PastKeys(key=key, value=value) for key, value in _pairs(past)),
            length=past[0].shape[2],
        )
        logits, after = self.decoder.step(ids, cache)
        return (logits, *(tensor for layer in after.past for tensor in (layer.key, layer.value)))


def step_names(decoder: CausalDecoder) -> tuple[list[str], list[str]]:
    """Return the names of the inputs and of the outputs of a step."""
    layers = len(decoder.layers)
    return ["ids", *memory_names(layers), *past_names(layers)], ["logits", *present_names(layers)]


def past_shapes(decoder: CausalDecoder) -> list[list[int]]:
    """Return heads and channels of a head, for keys and values of each layer in turn."""
    return [[layer.self_attention.num_heads, layer.self_attention.norm.normalized_shape[0] // layer.self_attention.num_heads]
            for layer in _layers(decoder) for _ in range(2)]  # fmt: skip


def step_program(decoder: CausalDecoder) -> Any:
    """Export a step as a `torch.export.ExportedProgram`, with free numbers of rows, of tokens of the memory and of past ids.

    Raises:
        ExportError: if a layer cannot be exported; names it.
    """
    from torch.export import Dim

    step = Step(decoder)
    like = decoder.embedding.weight
    memory = [torch.ones(_ROWS, _TOKENS, dtype=torch.bool, device=like.device)]
    for layer in _layers(decoder):
        attention = layer.cross_attention
        for channels in (attention.tokens.key.out_features, attention.tokens.value.out_features):
            memory.append(like.new_zeros(_ROWS, attention.num_heads, _TOKENS, channels // attention.num_heads))
    past = [like.new_zeros(_ROWS, heads, _LENGTH, channels) for heads, channels in past_shapes(decoder)]
    ids = torch.full((_ROWS, 1), decoder.start_id, device=like.device)
    rows, tokens = Dim("rows", min=1), Dim("tokens", min=1)
    length = Dim("length", min=0, max=max(_LENGTH + 1, decoder.max_length - 1))
    free: list[dict[int, Any]] = [{0: rows}, {0: rows, 1: tokens}]
    free += [{0: rows, 2: tokens} for _ in memory[1:]] + [{0: rows, 2: length} for _ in past]
    arguments = (ids, *memory, *past)
    with evaluating(step), without_shape_checks(), torch.no_grad():
        return located(step, lambda: torch.export.export(step, arguments, dynamic_shapes=(tuple(free),), strict=False))


def _layers(decoder: CausalDecoder) -> list[CausalLayer]:
    return [layer for layer in decoder.layers if isinstance(layer, CausalLayer)]


def _pairs(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
