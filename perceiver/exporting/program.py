"""A model as a `torch.export` program: flat inputs, attention in plain operators, free batch size and lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import jaxtyping
import torch
from torch import Tensor, nn

from perceiver.attention.cross import CrossAttention
from perceiver.attention.forms.cost_model import Shapes, cheapest_form
from perceiver.attention.kernels.dispatch import plain_operators
from perceiver.decoders import CausalDecoder, Memory
from perceiver.exporting.signature import MASK, Input
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating

Outputs = Literal["target", "all", "latents", "memory"]

INDEX = "index"
"""Input of text models: positions of the ids to predict, `(B, k)`."""


class ExportError(ValueError):
    """A model cannot be exported; the message names the layer or the input, and the reason."""


class Flat(nn.Module):
    """A model whose inputs are tensors in the order of a signature.

    Args:
        model: the model.
        inputs: the signature.
        outputs: `target` (outputs for the spec's target), `all` (outputs of the head), `latents`, or `memory` (what a causal
            decoder reads at every step, see `memory_tensors`).
        indexed: whether a last input chooses the outputs to compute, see `INDEX`.
    """

    def __init__(self, model: Perceiver, inputs: Sequence[Input], *, outputs: Outputs, indexed: bool) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = outputs
        self.indexed = indexed

    def forward(self, *tensors: Tensor) -> Any:
        """Tensors of the signature -> one output tensor, or a dict of them."""
        index = tensors[len(self.inputs)] if self.indexed else None
        inputs: dict[str, Any] = {}
        masks: dict[str, Tensor] = {}
        for place, x in zip(self.inputs, tensors, strict=False):
            if place.part == MASK:
                masks[place.modality] = x
            elif place.part is None:
                inputs[place.modality] = x
            else:
                inputs.setdefault(place.modality, {})[place.part] = x
        if self.outputs == "latents":
            return self.model.encode(inputs, masks)
        if self.outputs == "memory":
            assert isinstance(self.model.head, CausalDecoder)
            return memory_tensors(self.model.head, self.model.memory(inputs, masks))
        if self.outputs == "target":
            return self.model.target_outputs(inputs, masks)
        return self.model(inputs, masks, index=index)


def program_of(model: Perceiver, inputs: Sequence[Input], *, outputs: Outputs, indexed: bool) -> Any:
    """Export a model as a `torch.export.ExportedProgram`; the model is unchanged afterwards.

    Raises:
        ExportError: if a layer cannot be exported; names it.
    """
    from torch.export import Dim  # imports the compiler, which doubles the time of `import perceiver.exporting`

    flat = Flat(model, inputs, outputs=outputs, indexed=indexed)
    examples = [place.example for place in inputs]
    batch = Dim("batch", min=1)
    free: list[dict[int, Any]] = [
        {0: batch, **{axis + 1: Dim.DYNAMIC for axis, size in enumerate(place.shape) if size is None}} for place in inputs
    ]
    if indexed:
        examples.append(torch.tensor([[0, 1, 2], [2, 1, 0]]))
        free.append({0: batch, 1: Dim.DYNAMIC})
    device = next(model.parameters()).device
    arguments = tuple(example.to(device) for example in examples)
    with (
        evaluating(flat),
        _exportable_attention(flat, arguments),
        without_shape_checks(),
        _all_queries_at_once(model),
        plain_operators(),
    ):
        return located(
            flat,
            lambda: torch.export.export(flat, arguments, dynamic_shapes=(tuple(free),), strict=False),
        )


def memory_tensors(decoder: CausalDecoder, memory: Memory) -> tuple[Tensor, ...]:
    """Return the mask `(B, M)` of a memory, and its keys and values for each layer, `(B, h, M, d)`."""
    projected = decoder.start(memory).memory
    first = projected[0]
    mask = first.mask if first.mask is not None else torch.ones_like(first.key[:, 0, :, 0], dtype=torch.bool)
    return (mask, *(tensor for tokens in projected for tensor in (tokens.key, tokens.value)))


@contextmanager
def without_shape_checks() -> Iterator[None]:
    """Switch off the checks of jaxtyping's import hook, if it is installed: they would compare, and so fix, open sizes."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def _exportable_attention(flat: Flat, arguments: tuple[Tensor, ...]) -> Iterator[None]:
    """Fix the form of every cross-attention to the cheapest for the example: a choice by open sizes would restrict them."""
    layers = [layer for layer in flat.modules() if isinstance(layer, CrossAttention)]
    before = [layer.attention for layer in layers]
    chosen: dict[CrossAttention, str] = {}

    def choose(layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, CrossAttention)
        queries, blocks = given
        shapes = Shapes(
            blocks=blocks,
            num_queries=queries.shape[1],
            num_heads=layer.num_heads,
            qk_channels=layer.query.out_features,
            v_channels=layer.output.in_features,
            training=False,
        )
        chosen.setdefault(layer, cheapest_form(shapes, implementation="eager"))

    hooks = [layer.register_forward_pre_hook(choose) for layer in layers]
    try:
        located(flat, lambda: flat(*arguments))
    finally:
        for hook in hooks:
            hook.remove()
    try:
        for layer in layers:
            if layer.attention == "auto":
                layer.attention = chosen.get(layer, "dense")  # type: ignore[assignment]
        yield
    finally:
        for layer, form in zip(layers, before, strict=True):
            layer.attention = form


@contextmanager
def _all_queries_at_once(model: Perceiver) -> Iterator[None]:
    """Decode without chunks, whose number would depend on open sizes."""
    decoders: list[Any] = [module for module in model.modules() if hasattr(module, "chunk_size")]
    before = [decoder.chunk_size for decoder in decoders]
    try:
        for decoder in decoders:
            decoder.chunk_size = math.inf
        yield
    finally:
        for decoder, size in zip(decoders, before, strict=True):
            decoder.chunk_size = size


def located(flat: nn.Module, compute: Callable[[], Any]) -> Any:
    """Call `compute`; an error in a layer becomes an ExportError that names the innermost layer."""
    running: list[str] = []
    names = {module: name.removeprefix("model.") or "model" for name, module in flat.named_modules()}

    def enter(module: nn.Module, arguments: Any) -> None:
        running.append(f"{names.get(module, '?')} ({type(module).__name__})")

    def leave(module: nn.Module, arguments: Any, result: Any) -> None:
        running.pop()

    hooks = [hook for module in flat.modules() for hook in (
        module.register_forward_pre_hook(enter), module.register_forward_hook(leave),
    )]  # fmt: skip
    try:
        return compute()
    except Exception as error:
        text = " ".join(str(error).split())[:600] or type(error).__name__
        where = f"layer {running[-1]}" if running else "the model"
        raise ExportError(f"export: {where} cannot be exported: {type(error).__name__}: {text}") from error
    finally:
        for hook in hooks:
            hook.remove()
