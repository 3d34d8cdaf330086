"""Console output of a run: a table of the model before training, and the results and their paths afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perceiver.batch import Batch
from perceiver.decoders import Head, SequenceDecoder
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating
from perceiver.runtime.process_rank import first_process_only

FLOPS_NOTE = "matrix products and convolutions, a multiply-add counted as two; norms, softmax, activations not counted"


@first_process_only
def print_model(model: Perceiver, loader: Iterable[Batch], device: torch.device, *, batches: str = "") -> None:
    """Print modules, parameters, tokens per modality and FLOPs, measured on the first validation sample."""
    batch = _first_sample(loader)
    out = console()
    table = Table(title="Model", title_justify="left", show_footer=True)
    table.add_column("module", footer="all")
    table.add_column("class")
    table.add_column("parameters", justify="right", footer=f"{_count(model):,}")
    table.add_column("output of one sample")
    with torch.random.fork_rng(devices=[]), evaluating(model):
        tokens = model.tokens(batch.inputs, batch.masks)
        flops = _flops_in_words(model, batch)
    for name, adapter in model.adapters.items():
        size = f"{tokens[name].num_tokens:,} tokens × {adapter.channels}" if name in tokens else "absent"
        table.add_row(f"adapters.{name}", type(adapter).__name__, f"{_count(adapter):,}", size)
    width = next(iter(tokens.values())).channels
    total = sum(part.num_tokens for part in tokens.values())
    table.add_row("fusion", type(model.fusion).__name__, f"{_count(model.fusion):,}", f"{total:,} tokens × {width}")
    latents = f"{model.encoder.num_latents:,} latents × {model.encoder.latent_channels}"
    table.add_row("encoder", type(model.encoder).__name__, f"{_count(model.encoder):,}", latents)
    outputs = model.head.output_channels if isinstance(model.head, Head) else None
    shape = f"{outputs:,} outputs" if isinstance(outputs, int) else ""
    table.add_row("head", type(model.head).__name__, f"{_count(model.head):,}", shape)
    out.print(table)
    out.print(f"Estimated FLOPs, forward, one sample: {flops}", soft_wrap=True)
    for names in [None] if model.reads is None else dict.fromkeys(model.reads):
        blocks = [block for name, block in tokens.items() if names is None or name in names]
        if blocks:
            whom = "" if names is None else f" to {', '.join(names)}"
            out.print(f"Cross-attention{whom}: {model.encoder.explain_attention(blocks)}", soft_wrap=True)
    out.print(f"Device: {device}" + (f"; {batches}" if batches else ""), soft_wrap=True)


def _flops_in_words(model: Perceiver, batch: Batch) -> str:
    """Return the FLOPs of one sample as text; a decoder of a modality has no outputs for a sample without it."""
    try:
        return f"{_engineering(forward_flops(model, batch))} ({FLOPS_NOTE})"
    except ValueError as error:
        return f"not counted for sample {batch.ids[0] if batch.ids else 0!r}: {error}"


@first_process_only
def print_line(text: str) -> None:
    """Print a line without markup or wrapping."""
    console().print(text, soft_wrap=True)


def forward_flops(model: Perceiver, batch: Batch) -> int:
    """Return the floating-point operations of one forward pass over `batch`: see `FLOPS_NOTE` for what is counted."""
    # The math backend of attention consists of plain matrix products; torch has no FLOP formula for CPU flash kernels.
    # Gradients are on because the counter otherwise fails on parameters passed between modules.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if isinstance(model.head, SequenceDecoder) and batch.target is not None:
            model(batch.inputs, batch.masks, target_ids=batch.target[:, :-1])
        else:
            model(batch.inputs, batch.masks)
    return int(counter.get_total_flops())


@first_process_only
def print_result(
    metrics: Mapping[str, float | int],
    directory: Path,
    *,
    chosen_by: str | None = "val/accuracy",
    tested: Path | None = None,
) -> None:
    """Print the results, the time, and the paths of all outputs.

    Args:
        metrics: metrics as in metrics.json.
        directory: the run directory.
        chosen_by: the validation metric that chooses the best epoch; its value comes first.
        tested: the checkpoint, if it was only tested.
    """
    out = console()
    if tested is not None:
        out.print(f"Tested {tested}", soft_wrap=True)
    if chosen_by in metrics:
        epoch = f" in epoch {int(metrics['best_epoch']) + 1} of {metrics['epochs']}" if "best_epoch" in metrics else ""
        name = str(chosen_by).removeprefix("val/")
        out.print(f"Validation {_metric(name, metrics[str(chosen_by)])}{epoch} (best)", soft_wrap=True)
    elif "train/loss" in metrics:
        out.print(f"Training loss {metrics['train/loss']:.2g} (no validation)", soft_wrap=True)
    first = (chosen_by or "").replace("val/", "test/", 1)
    test = [name for name in metrics if name.startswith("test/") and name != "test/loss"]
    test.sort(key=lambda name: name != first)
    if test:
        shown = [_metric(name.removeprefix("test/"), metrics[name]) for name in test]
        out.print(f"Test {', '.join(shown)}", soft_wrap=True)
    out.print(f"Time {metrics['seconds']:.1f} s", soft_wrap=True)
    places = [name for name in ("checkpoints", "figures", "metrics.json") if (directory / name).exists()]
    out.print(f"Run directory {directory}: {', '.join(places)}", soft_wrap=True)
    loadable = directory if tested is None else tested
    out.print(f'In Python: model = perceiver.load("{loadable}")', soft_wrap=True)


def _first_sample(loader: Iterable[Batch]) -> Batch:
    """Return the first sample of the first batch, drawn without changing the random state before training."""
    with torch.random.fork_rng(devices=[]):
        return next(iter(loader)).rows(slice(1))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _metric(name: str, value: float) -> str:
    """Format a metric: accuracies as percentages, other metrics in their own scale."""
    number = f"{100 * value:.2f}%" if name.endswith("accuracy") else f"{value:.4g}"
    return f"{name.replace('_', ' ')} {number}"


def _engineering(number: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def console() -> Console:
    """Return the console of a run, without highlighting or markup."""
    return Console(highlight=False, markup=False)
