"""Summary of a model: modules, parameters, tokens of each modality, and floating-point operations of one forward pass."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perceiver.decoders import Head
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating

FLOPS_NOTE = "matrix products and convolutions, a multiply-add counted as two; norms, softmax, activations not counted"


@dataclass(frozen=True)
class Part:
    """A module of a model.

    Args:
        name: name of the module, `adapters.image`.
        kind: name of its class.
        parameters: number of its parameters.
        output: size of its output for one sample, in words.
    """

    name: str
    kind: str
    parameters: int
    output: str


@dataclass(frozen=True)
class Summary:
    """A model in numbers; `print` shows it as a table.

    Args:
        parts: modules, in the order of the data.
        parameters: number of all parameters.
        flops: floating-point operations of one forward pass, see `FLOPS_NOTE`; None if they could not be counted.
        not_counted: the reason, if there is no number.
        attention: form and implementation of cross-attention, a line for each set of modalities that is read together.
    """

    parts: tuple[Part, ...]
    parameters: int
    flops: int | None
    not_counted: str
    attention: tuple[str, ...]

    def table(self) -> Table:
        """Return the modules as a table of rich."""
        made = Table(title="Model", title_justify="left", show_footer=True)
        made.add_column("module", footer="all")
        made.add_column("class")
        made.add_column("parameters", justify="right", footer=f"{self.parameters:,}")
        made.add_column("output of one sample")
        for part in self.parts:
            made.add_row(part.name, part.kind, f"{part.parameters:,}", part.output)
        return made

    def lines(self) -> list[str]:
        """Return what is printed below the table: the operations, and how cross-attention is computed."""
        flops = self.not_counted if self.flops is None else f"{_engineering(self.flops)} ({FLOPS_NOTE})"
        return [f"Estimated FLOPs, forward, one sample: {flops}", *self.attention]

    def __str__(self) -> str:
        out = io.StringIO()
        console = Console(file=out, width=110, highlight=False, markup=False)
        console.print(self.table())
        for line in self.lines():
            console.print(line, soft_wrap=True)
        return out.getvalue().rstrip("\n")


def summary(
    model: Perceiver,
    inputs: Mapping[str, Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    target_ids: Tensor | None = None,
) -> Summary:
    """Summarise a model, measured on one sample; the table that runs print.

    Args:
        model: a model; its mode and the random state do not change.
        inputs: inputs by modality, as the model takes them, of one or more samples; the first is used.
        masks: masks by modality.
        target_ids: as for `Perceiver.forward`; without them, the operations of a model that generates texts are not counted.

    Raises:
        ValueError: as `Perceiver.tokens`.

    Examples:
        >>> import torch
        >>> import perceiver
        >>> from perceiver import Encoder, Fourier, Perceiver, PooledHead
        >>> from perceiver.adapters import ImagePixels
        >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(8, 8)))
        >>> encoder = Encoder(token_channels=image.channels, num_latents=4, latent_channels=16, num_layers_per_block=1)
        >>> model = Perceiver(adapters={"image": image}, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=3))
        >>> found = perceiver.summary(model, {"image": torch.rand(1, 1, 8, 8)})
        >>> found.parameters, found.parts[0].output
        (3084, '64 tokens × 11')
    """
    inputs, masks = _first(inputs), _first(masks or {})
    target_ids = None if target_ids is None else target_ids[:1]
    flops, reason = None, ""
    with torch.random.fork_rng(devices=[]), evaluating(model):
        tokens = model.tokens(inputs, masks)
        try:
            flops = forward_flops(model, inputs, masks, target_ids=target_ids)
        except ValueError as error:
            # A decoder of a modality has no outputs for a sample without it.
            reason = str(error)
    parts = [
        Part(
            f"adapters.{name}",
            type(adapter).__name__,
            _count(adapter),
            f"{tokens[name].num_tokens:,} tokens × {adapter.channels}" if name in tokens else "absent",
        )
        for name, adapter in model.adapters.items()
    ]
    width = next(iter(tokens.values())).channels
    total = sum(part.num_tokens for part in tokens.values())
    latents = f"{model.encoder.num_latents:,} latents × {model.encoder.latent_channels}"
    outputs = model.head.output_channels if isinstance(model.head, Head) else None
    for name, module, output in (
        ("fusion", model.fusion, f"{total:,} tokens × {width}"),
        ("encoder", model.encoder, latents),
        ("head", model.head, f"{outputs:,} outputs" if isinstance(outputs, int) else ""),
    ):
        parts.append(Part(name, type(module).__name__, _count(module), output))
    attention = []
    for names in [None] if model.reads is None else dict.fromkeys(model.reads):
        blocks = [block for name, block in tokens.items() if names is None or name in names]
        if blocks:
            whom = "" if names is None else f" to {', '.join(names)}"
            attention.append(f"Cross-attention{whom}: {model.encoder.explain_attention(blocks)}")
    return Summary(tuple(parts), _count(model), flops, reason, tuple(attention))


def forward_flops(
    model: Perceiver,
    inputs: Mapping[str, Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    target_ids: Tensor | None = None,
) -> int:
    """Return the floating-point operations of one forward pass: see `FLOPS_NOTE` for what is counted.

    Arguments and errors as for `Perceiver.forward`.
    """
    # The math backend of attention consists of plain matrix products; torch has no FLOP formula for CPU flash kernels.
    # Gradients are on because the counter otherwise fails on parameters passed between modules.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs, masks, target_ids=target_ids)
    return int(counter.get_total_flops())


def _first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first sample of each input."""
    return {
        name: {key: part[:1] for key, part in x.items()} if isinstance(x, Mapping) else x[:1] for name, x in values.items()
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _engineering(number: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
