"""Comparison of whole classifiers at the same sizes and inputs: this package, a frozen dense reference, peers from PyPI.

    pip install -e '.[bench]'
    python benchmarks/peers.py [--only classifier] [--batch 1] [--models ours transformers] [--memory] [--json FILE]
    python benchmarks/peers.py --only million --heavy-peers     # minutes and tens of gigabytes per model

Forward: evaluation mode, no gradients. Training: forward, cross-entropy, backward and an AdamW step over all parameters, the
same for all models. Repetitions of the models are interleaved, ratios (slow-down against ours) are taken within each
repetition, and the table shows medians. "fastest peer" is the peer with the smallest median in this run, separately for
forward and training. The dense reference, which does exactly the work of the published architecture on SDPA, does not count
as a peer. Memory is the peak that the work adds to the resident memory of a fresh process that holds the model's weights
and was warmed up with a tiny model; for training it includes gradients and AdamW's state.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import CONTENDERS, OURS, PEERS, REFERENCE, Contender, Size
from measure import (
    Seconds,
    added_peak,
    announce,
    available_megabytes,
    in_fresh_process,
    interleaved,
    machine,
    medians,
    ratios,
    timed,
    write_json,
)
from torch import Tensor, nn

MILLION = {"channels": 3, "num_latents": 128, "width": 256, "num_cross_attends": 4, "num_blocks": 4, "num_layers": 3}

SIZES = (
    Size(
        "classifier 224x224x3, 128 x 256, 4 cross-attends, 4 x 3 self-attends",
        grid=(224, 224), channels=3, bands=64, num_latents=128, width=256, num_cross_attends=4, num_blocks=4, num_layers=3,
    ),
    Size(
        "imagenet perceiver 224x224x3, 512 x 1024, 8 cross-attends, 8 x 6 self-attends",
        grid=(224, 224), channels=3, bands=64, num_latents=512, width=1024, num_cross_attends=8, num_blocks=8, num_layers=6,
        published=44_912_254,
    ),
    Size(
        "imagenet perceiver-io 224x224x3, 512 x 1024, 8 x 6 self-attends, query decoder",
        grid=(224, 224), channels=3, bands=64, num_latents=512, width=1024, num_cross_attends=1, num_blocks=8, num_layers=6,
        decoder=True, published=48_440_627,
    ),
    Size(
        "million image 1024x1024x3, 128 x 256, 4 cross-attends, 4 x 3 self-attends",
        grid=(1024, 1024), bands=64, heavy=True, **MILLION,
    ),
    Size(
        "million video 16x256x256x3, 128 x 256, 4 cross-attends, 4 x 3 self-attends",
        grid=(16, 256, 256), bands=32, heavy=True, **MILLION,
    ),
)  # fmt: skip


@dataclass
class Row:
    """A model at a size: medians in seconds, slow-down against ours, memory in megabytes."""

    size: str
    model: str
    parameters: int
    batch: int
    repetitions: int
    forward: float
    training: float
    forward_ratio: float
    training_ratio: float
    note: str
    forward_megabytes: float | None = None
    training_megabytes: float | None = None


class Trial:
    """A model to be timed, with its input, target and optimizer."""

    def __init__(self, contender: Contender, size: Size, batch: int) -> None:
        self.contender = contender
        self.model: nn.Module = contender.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        random = torch.Generator().manual_seed(0)
        self.x: Tensor = torch.randn(batch, size.channels, *size.grid, generator=random)
        self.target = torch.randint(size.num_classes, (batch,), generator=random)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Compute logits in evaluation mode."""
        self.model.eval()
        logits: Tensor = self.model(self.x)
        return logits

    def train(self) -> None:
        """Take a training step."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.x), self.target).backward()
        self.optimizer.step()

    def once(self) -> Seconds:
        """Return the seconds of a forward and of a training step; free the gradients for the next model."""
        seconds = timed(self.forward), timed(self.train)
        self.optimizer.zero_grad(set_to_none=True)
        return seconds


def build(names: Sequence[str], size: Size) -> tuple[list[Contender], list[str]]:
    """Build the models of a size; return them and the reasons for missing models."""
    contenders, missing = [], []
    for name in names:
        torch.manual_seed(0)
        try:
            contenders.append(CONTENDERS[name](size))
        except ImportError as error:
            missing.append(f"{name}: left out, {error}; pip install -e '.[bench]'")
    return contenders, missing


def measure(contenders: Sequence[Contender], size: Size, *, batch: int, seconds: float, repetitions: int) -> list[Row]:
    """Measure all models of a size in turn. Ratios are relative to the first model."""
    trials = {contender.name: Trial(contender, size, batch) for contender in contenders}
    times = interleaved({name: trial.once for name, trial in trials.items()}, repetitions=repetitions, seconds=seconds)
    first = times[contenders[0].name]
    rows = []
    for contender in contenders:
        measured = times[contender.name]
        (forward, training), (forward_ratio, training_ratio) = medians(measured), ratios(measured, first)
        rows.append(
            Row(
                size=size.name,
                model=contender.name,
                parameters=contender.parameters,
                batch=batch,
                repetitions=len(measured),
                forward=forward,
                training=training,
                forward_ratio=forward_ratio,
                training_ratio=training_ratio,
                note=contender.note,
            )
        )
    return rows


def summary(rows: Sequence[Row]) -> list[str]:
    """Return lines that compare ours with the fastest peer and with the reference; empty without ours."""
    lines: list[str] = []
    if not rows or rows[0].model not in OURS:
        return lines
    peers = [row for row in rows if row.model in PEERS]
    reference = [row for row in rows if row.model in REFERENCE]
    for among, label in ((peers, "fastest peer"), (reference, "dense reference")):
        if among:
            forward = min(among, key=lambda row: row.forward)
            training = min(among, key=lambda row: row.training)
            names = ("", "") if among is reference else (f" ({forward.model})", f" ({training.model})")
            lines.append(
                f"ours against the {label}: forward {forward.forward_ratio:.2f}x{names[0]}, "
                f"training step {training.training_ratio:.2f}x{names[1]}"
            )
    return lines


def peak_megabytes(
    name: str, size: Size, *, kind: str, batch: int, threads: int, grid: Sequence[int] | None = None
) -> float:
    """Return the memory that a forward or a training step adds, in a fresh process, optionally on another grid."""
    command = ["--one-peak", name, "--only", size.name, "--kind", kind, "--batch", str(batch), "--threads", str(threads)]
    if grid is not None:
        command += ["--grid", *map(str, grid)]
    return in_fresh_process(__file__, command)


def print_peak(name: str, size: Size, *, kind: str, batch: int) -> None:
    """Measure and print the result of `peak_megabytes`, inside its process."""

    def work(of: Size) -> Callable[[], object]:
        trial = Trial(CONTENDERS[name](of), of, batch)
        return trial.forward if kind == "forward" else trial.train

    work(size.small())()
    gc.collect()
    print(added_peak(work(size)))


def fits(name: str, size: Size, *, batch: int, threads: int) -> str:
    """Return why a model does not fit into memory; empty if it does. Extrapolated from a sixteenth of the grid."""
    axes = sorted(range(len(size.grid)), key=lambda axis: size.grid[axis])[-2:]
    grid = [length // 4 if axis in axes else length for axis, length in enumerate(size.grid)]
    factor = size.num_tokens / replace(size, grid=tuple(grid)).num_tokens
    needed = factor * peak_megabytes(name, size, kind="training", batch=batch, threads=threads, grid=grid)
    available = available_megabytes()
    if needed < 0.9 * available:
        return ""
    return (
        f"{name}: refused, a training step would need about {needed / 1024:.0f} GB of memory ({factor:.0f} times that for a "
        f"grid of {'x'.join(map(str, grid))}); {available / 1024:.0f} GB are available. Use a machine with more memory."
    )


def print_row(row: Row) -> None:
    """Print a line of the table."""
    memory = ""
    if row.forward_megabytes is not None and row.training_megabytes is not None:
        memory = f"{row.forward_megabytes:8.0f} MB {row.training_megabytes:8.0f} MB"
    print(
        f"{row.model:18} {row.parameters:12,} {row.forward * 1e3:10.1f} ms {row.training * 1e3:10.1f} ms "
        f"{row.forward_ratio:8.2f}x {row.training_ratio:8.2f}x {row.repetitions:4} {memory}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write them to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="sizes whose name contains this")
    parser.add_argument("--models", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="approximate time per size; at least three repetitions")
    parser.add_argument("--repetitions", type=int, default=15, help="at most")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in fresh processes")
    parser.add_argument("--heavy-peers", action="store_true", help="a million tokens for the others too, memory permitting")
    parser.add_argument("--quick", action="store_true", help="tiny models, one repetition, to test the script")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one-peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=("forward", "training"), help=argparse.SUPPRESS)
    parser.add_argument("--grid", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = [size for size in SIZES if options.only in size.name]
    if not sizes:
        parser.error(f"--only {options.only}: no such size; available: {'; '.join(size.name for size in SIZES)}")
    if options.one_peak:
        size = sizes[0] if options.grid is None else replace(sizes[0], grid=tuple(options.grid))
        print_peak(options.one_peak, size, kind=options.kind, batch=options.batch)
        return
    facts = machine()
    announce(facts)
    names = [name for name in CONTENDERS if name in options.models]
    results = []
    for full in sizes:
        size = full.small() if options.quick else full
        print(f"\n{full.name}, batch {options.batch}" + (", tiny (--quick)" if options.quick else ""))
        allowed = names
        if size.heavy and not options.heavy_peers and not options.quick:
            allowed = [name for name in names if name in OURS]
        refused = []
        if size.heavy and options.heavy_peers and not options.quick:
            reasons = {name: fits(name, size, batch=options.batch, threads=options.threads) for name in names}
            allowed = [name for name in names if not reasons[name]]
            refused = [reason for reason in reasons.values() if reason]
        contenders, missing = build(allowed, size)
        for line in (*refused, *missing):
            print(line)
        if not contenders:
            continue
        print(
            f"{'model':18} {'parameters':>12} {'forward':>13} {'training step':>13} {'slower':>9} {'slower':>9} {'reps':>4} "
            + (f"{'+ forward':>11} {'+ training':>11}" if options.memory else "")
        )
        rows = measure(
            contenders,
            size,
            batch=options.batch,
            seconds=0 if options.quick else options.seconds,
            repetitions=1 if options.quick else options.repetitions,
        )
        notes = {contender.name: contender.note for contender in contenders}
        del contenders
        for row in rows:
            if options.memory:
                row.forward_megabytes, row.training_megabytes = (
                    peak_megabytes(
                        row.model,
                        full,
                        kind=kind,
                        batch=options.batch,
                        threads=options.threads,
                        grid=size.grid if options.quick else None,
                    )
                    for kind in ("forward", "training")
                )
            print_row(row)
        for line in summary(rows):
            print(line)
        for name, note in notes.items():
            print(f"  {name}: {note}")
        results += [asdict(row) for row in rows]
        if options.json:
            # After each size, because the next may take a long time.
            write_json(options.json, facts, results)


if __name__ == "__main__":
    main()
