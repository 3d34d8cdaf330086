"""One cross-attend over tokens: each form of this package against a frozen dense reference, time and memory.

    python benchmarks/attention.py [--threads 1] [--only image] [--forms eager native] [--json FILE] [--memory]

The reference is what published Perceivers do: concatenate positions to every element, layer_norm, key and value projections,
`F.scaled_dot_product_attention` padded to a multiple of 8. Inputs, weights and queries are the same in all forms; training
asks for gradients to queries, weights and whatever of the tokens is learned. Repetitions of the forms are interleaved, a
ratio is taken in each, and the table shows the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.attention import eager, native
from perceiver.attention.factored import factored_attention
from perceiver.attention.implementations import implementation
from perceiver.attention.projection import TokenProjection
from perceiver.attention.reading import Read
from perceiver.positions import Fourier, grid_coordinates
from perceiver.tokens import Tokens


@dataclass(frozen=True)
class Case:
    """One input: a grid with content, and positions by bands (one Fourier part per axis, or per point) or a learned table.

    Args:
        grid: elements per axis; for points one axis.
        content: channels of the content.
        bands: Fourier bands per axis; 0 for a learned table of `table` channels.
        points: coordinates of a point set, whose Fourier features belong to the points; 0 for grids.
        embedded: whether the content is learned, so that training needs gradients to it.
    """

    name: str
    grid: tuple[int, ...]
    content: int
    bands: int = 0
    table: int = 0
    points: int = 0
    latents: int = 128
    batch: int = 1
    heads: int = 1
    embedded: bool = False

    def tokens(self) -> Tokens:
        """Random content of standard deviation 1, and positions."""
        content = torch.randn(self.batch, *self.grid, self.content, requires_grad=self.embedded)
        if self.table:
            return Tokens((content, torch.randn(1, *self.grid, self.table, requires_grad=True)))
        if self.points:
            places = torch.rand(self.batch, *self.grid, self.points) * 2 - 1
            (features,) = Fourier(num_bands=self.bands, resolution=[64] * self.points)((places,))
            return Tokens((content, features))
        position = Fourier(num_bands=self.bands, resolution=self.grid)
        return Tokens((content, *position(grid_coordinates(self.grid))))


CASES = (
    Case("image 224x224x3, 64 bands", (224, 224), 3, 64),
    Case("image 224x224x3, 64 bands, 512 latents", (224, 224), 3, 64, latents=512),
    Case("image 224x224x3, 64 bands, batch 4", (224, 224), 3, 64, batch=4),
    Case("image 224x224x3, 64 bands, batch 4, 512 latents", (224, 224), 3, 64, batch=4, latents=512),
    Case("image 28x28x1, 64 bands, batch 64", (28, 28), 1, 64, batch=64, latents=32),
    Case("image 32x32x3, 64 bands, batch 64", (32, 32), 3, 64, batch=64, latents=64),
    Case("image 28x28x1, 32 bands, batch 64", (28, 28), 1, 32, batch=64, latents=32),
    Case("image 32x32x3, 32 bands, batch 64", (32, 32), 3, 32, batch=64, latents=64),
    Case("video 16x112x112x3, 32 bands", (16, 112, 112), 3, 32),
    Case("spectrogram 128x1000x1, 64 bands", (128, 1000), 1, 64),
    Case("image 224x224x3, 64 bands, 8 heads", (224, 224), 3, 64, heads=8),
    Case("waveform 4000 frames of 48, 64 bands, batch 4", (4000,), 48, 64, batch=4),
    Case("table 112x112, 256 + 256, batch 4", (112, 112), 256, table=256, batch=4, embedded=True),
    Case("points 2048, 64 bands, batch 8", (2048,), 3, 64, points=3, batch=8),
    Case("text 2048, 256 + 256, batch 8", (2048,), 256, table=256, batch=8, embedded=True),
    Case("million image 1024x1024x3, 64 bands", (1024, 1024), 3, 64),
    Case("million video 16x256x256x3, 32 bands", (16, 256, 256), 3, 32),
)

Attend = Callable[[Tensor], Tensor]


@dataclass
class Result:
    """Medians of one form on one case: seconds, and how many times faster than the reference in the same repetition."""

    case: str
    form: str
    forward: float
    training: float
    forward_ratio: float = 1.0
    training_ratio: float = 1.0
    error: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


def reference(query: Tensor, tokens: Tokens, projection: TokenProjection) -> Tensor:
    """The frozen dense form: nothing of this package's attention code runs here."""
    batch, num_heads, _, width = *tokens.parts[0].shape[:1], *query.shape[1:]
    grid = tokens.parts[0].shape[1:-1]
    dense = torch.cat([part.expand(batch, *grid, -1) for part in tokens.parts], dim=-1).flatten(1, -2)
    normed = F.layer_norm(dense, dense.shape[-1:], projection.norm.weight, projection.norm.bias, projection.norm.eps)
    padding = -width % 8

    def heads(layer: torch.nn.Linear) -> Tensor:
        weight = F.pad(layer.weight.unflatten(0, (num_heads, width)), (0, 0, 0, padding)).flatten(0, 1)
        bias = F.pad(layer.bias.unflatten(0, (num_heads, width)), (0, padding)).flatten()
        return F.linear(normed, weight, bias).unflatten(-1, (num_heads, width + padding)).transpose(1, 2)

    padded = F.pad(query, (0, padding)).expand(batch, -1, -1, -1)
    out = F.scaled_dot_product_attention(padded, heads(projection.key), heads(projection.value), scale=width**-0.5)
    return out[..., :width]


def forms(tokens: Tokens, projection: TokenProjection, names: Sequence[str]) -> dict[str, Attend]:
    """The forms by name, the reference first. A further implementation needs one line here."""
    reads = {"eager": eager.read_tokens, "native": native.read_tokens}
    chosen: dict[str, Attend] = {"dense": lambda query: reference(query, tokens, projection)}
    for name in names:
        if name in reads:
            chosen[name] = partial(_factored, tokens=tokens, projection=projection, read=reads[name])
    return chosen


def _factored(query: Tensor, *, tokens: Tokens, projection: TokenProjection, read: Read) -> Tensor:
    return factored_attention(query, [tokens], projection, read=read)


def set_up(case: Case) -> tuple[Tensor, Tokens, TokenProjection]:
    """Query `(1, h, N, d)`, tokens and weights of a case, always the same."""
    torch.manual_seed(0)
    tokens = case.tokens()
    # As in the papers, one width for keys and values: the tokens' own, rounded up to a multiple of the heads.
    width = -(-tokens.channels // case.heads)
    projection = TokenProjection(
        token_channels=tokens.channels, qk_channels=width * case.heads, v_channels=width * case.heads
    )
    query = torch.randn(1, case.heads, case.latents, width, requires_grad=True)
    return query, tokens, projection


def once(attend: Attend, query: Tensor, tokens: Tokens, projection: TokenProjection) -> tuple[float, float]:
    """Seconds of a forward without gradients, and of a forward and backward."""
    start = time.perf_counter()
    with torch.no_grad():
        attend(query)
    forward = time.perf_counter() - start
    learned = [query, *projection.parameters(), *(part for part in tokens.parts if part.requires_grad)]
    for x in learned:
        x.grad = None
    start = time.perf_counter()
    out = attend(query)
    out.backward(torch.ones_like(out))
    return forward, time.perf_counter() - start


def measure(case: Case, names: Sequence[str], *, seconds: float, repetitions: int) -> list[Result]:
    """Interleaved repetitions until `seconds` are spent, at least three and at most `repetitions`."""
    query, tokens, projection = set_up(case)
    chosen = forms(tokens, projection, names)
    with torch.no_grad():
        outputs = {name: attend(query).double() for name, attend in chosen.items()}
    scale = outputs["dense"].abs().max()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    start = time.perf_counter()
    for attend in chosen.values():
        once(attend, query, tokens, projection)
    for repetition in range(repetitions):
        for name, attend in chosen.items():
            times[name].append(once(attend, query, tokens, projection))
        if repetition >= 2 and time.perf_counter() - start > seconds:
            break
    results = []
    for name, own in times.items():
        ratios = [(d[0] / o[0], d[1] / o[1]) for d, o in zip(times["dense"], own, strict=True)]
        results.append(
            Result(
                case=case.name,
                form=name,
                forward=statistics.median(o[0] for o in own),
                training=statistics.median(o[1] for o in own),
                forward_ratio=statistics.median(r[0] for r in ratios),
                training_ratio=statistics.median(r[1] for r in ratios),
                error=((outputs[name] - outputs["dense"]).abs().max() / scale).item(),
            )
        )
    return results


def peak_megabytes(case: Case, name: str, threads: int) -> float:
    """What a forward and backward adds to the peak of resident memory, in a fresh process that a small case warmed up."""
    command = [sys.executable, __file__, "--one-peak", name, "--only", case.name, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(case: Case, name: str) -> None:
    """The work of `peak_megabytes` in its own process."""
    small = Case("warm-up", tuple(4 for _ in case.grid), case.content, case.bands, case.table, case.points, latents=16)
    for current in (small, case):
        query, tokens, projection = set_up(current)
        attend = forms(tokens, projection, [name])[name]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        once(attend, query, tokens, projection)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) / (2**20 if sys.platform == "darwin" else 2**10))


def machine() -> dict[str, object]:
    """What the figures depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "native": implementation(torch.device("cpu"), torch.float32).reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": "float32",
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--forms", nargs="+", default=["eager", "native"])
    parser.add_argument("--seconds", type=float, default=10, help="time for one case, about")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in fresh processes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one-peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no case of that name; there are: {'; '.join(case.name for case in CASES)}")
    if options.one_peak:
        print_peak(next(case for case in cases if case.name == options.only), options.one_peak)
        return
    facts = machine()
    print("  ".join(f"{key}: {value}" for key, value in facts.items()))
    print(f"{'input':50} {'N':>4} {'form':8} {'forward':>10} {'+ backward':>11} {'ratios':>15} {'error':>8} {'memory':>9}")
    results = []
    for case in cases:
        for result in measure(case, options.forms, seconds=options.seconds, repetitions=options.repetitions):
            if options.memory:
                result.extra["peak_megabytes"] = peak_megabytes(case, result.form, options.threads)
            memory = f"{result.extra['peak_megabytes']:6.0f} MB" if options.memory else ""
            print(
                f"{case.name:50} {case.latents:4} {result.form:8} "
                f"{result.forward * 1e3:7.2f} ms {result.training * 1e3:8.2f} ms "
                f"{result.forward_ratio:6.1f}x {result.training_ratio:6.1f}x {result.error:8.1e} {memory:>9}",
                flush=True,
            )
            results.append(vars(result))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
