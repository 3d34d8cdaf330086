"""Console output of a run: a table of the model before training, and the results and their paths afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from perceiver.decoders import SequenceDecoder
from perceiver.inspection.model_summary import Summary, summary
from perceiver.inspection.model_summary import forward_flops as flops_of
from perceiver.model import Perceiver
from perceiver.runtime.process_rank import first_process_only
from perceiver.samples.batch import Batch


@first_process_only
def print_model(model: Perceiver, loader: Iterable[Batch], device: torch.device, *, batches: str = "") -> None:
    """Print modules, parameters, tokens per modality and FLOPs, measured on the first validation sample."""
    batch = _first_sample(loader)
    found = summary_of(model, batch)
    if found.flops is None:
        sample = batch.ids[0] if batch.ids else 0
        found = replace(found, not_counted=f"not counted for sample {sample!r}: {found.not_counted}")
    out = console()
    out.print(found.table())
    for line in found.lines():
        out.print(line, soft_wrap=True)
    out.print(f"Device: {device}" + (f"; {batches}" if batches else ""), soft_wrap=True)


def summary_of(model: Perceiver, batch: Batch) -> Summary:
    """Summarise a model, measured on the first sample of a batch."""
    return summary(model, batch.inputs, batch.masks, target_ids=_target_ids(model, batch))


@first_process_only
def print_line(text: str) -> None:
    """Print a line without markup or wrapping."""
    console().print(text, soft_wrap=True)


def forward_flops(model: Perceiver, batch: Batch) -> int:
    """Return the floating-point operations of one forward pass over `batch`: see `perceiver.inspection.model_summary`."""
    return flops_of(model, batch.inputs, batch.masks, target_ids=_target_ids(model, batch))


@first_process_only
def print_result(
    metrics: Mapping[str, float | int],
    directory: Path,
    *,
    chosen_by: str | None = "val/accuracy",
    tested: Path | None = None,
    loadable: Path | None = None,
) -> None:
    """Print the results, the time, and the paths of all outputs.

    Args:
        metrics: metrics as in metrics.json.
        directory: the run directory.
        chosen_by: the validation metric that chooses the best epoch; its value comes first.
        tested: the checkpoint, if it was only tested.
        loadable: what `perceiver.load` takes, if it is neither of these.
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
    places = [name for name in ("checkpoints", "figures", "metrics.json", "report.html") if (directory / name).exists()]
    out.print(f"Run directory {directory}: {', '.join(places)}", soft_wrap=True)
    out.print(f'In Python: model = perceiver.load("{loadable or tested or directory}")', soft_wrap=True)


def _first_sample(loader: Iterable[Batch]) -> Batch:
    """Return the first sample of the first batch, drawn without changing the random state before training."""
    with torch.random.fork_rng(devices=[]):
        return next(iter(loader)).rows(slice(1))


def _target_ids(model: Perceiver, batch: Batch) -> Tensor | None:
    """Return the ids before each predicted id, for a model that generates sequences."""
    return batch.target[:, :-1] if isinstance(model.head, SequenceDecoder) and batch.target is not None else None


def _metric(name: str, value: float) -> str:
    """Format a metric: accuracies as percentages, other metrics in their own scale."""
    number = f"{100 * value:.2f}%" if name.endswith("accuracy") else f"{value:.4g}"
    return f"{name.replace('_', ' ')} {number}"


def console() -> Console:
    """Return the console of a run, without highlighting or markup."""
    return Console(highlight=False, markup=False)
