"""Time and memory of a single cross-attend over tokens: each form of this package against a frozen dense reference.

    python benchmarks/attention.py [--threads 1] [--only image] [--forms absorbed native] [--memory] [--json FILE]

The reference does the work of published Perceivers: concatenate positions to every element, layer_norm, key and value
projections, `F.scaled_dot_product_attention` padded to a multiple of 8. Inputs, weights and queries are the same in all
forms. Training computes gradients of queries, weights and learned parts of the tokens. Repetitions of the forms are
interleaved, ratios are taken within each repetition, and the table shows the medians.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from dense_reference import attend
from measure import Seconds, added_peak, announce, in_fresh_process, interleaved, machine, medians, ratios, timed, write_json
from torch import Tensor

from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager, native
from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.positions import Fourier, grid_coordinates
from perceiver.tokens.tokens import Tokens


@dataclass(frozen=True)
class Case:
    """An input: a grid with content, and positions as Fourier features (a part per axis, or per point) or a learned table.

    Args:
        grid: elements per axis; a single axis for points.
        content: channels of the content.
        bands: Fourier bands per axis; 0 for a learned table of `table` channels.
        points: number of coordinates of a point set, with Fourier features per point; 0 for grids.
        embedded: whether the content is learned, so that training computes its gradient.
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
        """Return tokens of random content with standard deviation 1, and positions."""
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

FORMS = ("absorbed", "eager", "native")
"""SDPA with absorbed projections, and the implementations of the factored form."""

Attend = Callable[[Tensor], Tensor]


@dataclass
class Result:
    """Medians of a form on a case: seconds, and the speed-up over the reference within the same repetition.

    Memory is the peak that training adds, in megabytes, and the factor by which it is smaller than the reference's.
    """

    case: str
    form: str
    forward: float
    training: float
    forward_ratio: float
    training_ratio: float
    error: float
    megabytes: float | None = None
    memory_ratio: float | None = None


def reference(query: Tensor, tokens: Tokens, projection: TokenProjection) -> Tensor:
    """Compute the frozen dense form, without this package's attention code."""
    batch, grid = tokens.parts[0].shape[0], tokens.parts[0].shape[1:-1]
    dense = torch.cat([part.expand(batch, *grid, -1) for part in tokens.parts], dim=-1).flatten(1, -2)
    return attend(query, dense, projection.norm, projection.key, projection.value, num_heads=query.shape[1])


def missing(name: str) -> str:
    """Return the reason why a form cannot run on this machine; empty if it can."""
    if name == "native" and native.availability().library is None:
        return native.availability().reason
    return ""


def forms(tokens: Tokens, projection: TokenProjection, names: Sequence[str]) -> dict[str, Attend]:
    """Return the forms by name. A new implementation needs a line here."""
    kernels = {"eager": eager.KERNEL, "native": native.KERNEL}
    chosen: dict[str, Attend] = {}
    for name in names:
        if name == "dense":
            chosen[name] = partial(reference, tokens=tokens, projection=projection)
        elif name == "absorbed":
            chosen[name] = partial(_absorbed, tokens=tokens, projection=projection)
        else:
            chosen[name] = partial(_factored, tokens=tokens, projection=projection, kernel=kernels[name])
    return chosen


def _absorbed(query: Tensor, *, tokens: Tokens, projection: TokenProjection) -> Tensor:
    return absorbed_attention(query, [tokens], projection)


def _factored(query: Tensor, *, tokens: Tokens, projection: TokenProjection, kernel: Kernel) -> Tensor:
    return factored_attention(query, [tokens], projection, kernel=kernel)


def set_up(case: Case) -> tuple[Tensor, Tokens, TokenProjection]:
    """Return query `(1, h, N, d)`, tokens and weights of a case, always the same."""
    torch.manual_seed(0)
    tokens = case.tokens()
    # As in the papers, keys and values have the tokens' width, rounded up to a multiple of the heads.
    width = -(-tokens.channels // case.heads)
    projection = TokenProjection(
        token_channels=tokens.channels, qk_channels=width * case.heads, v_channels=width * case.heads
    )
    query = torch.randn(1, case.heads, case.latents, width, requires_grad=True)
    return query, tokens, projection


def forward(attend: Attend, query: Tensor) -> None:
    """Run a forward pass without gradients."""
    with torch.no_grad():
        attend(query)


def training(attend: Attend, query: Tensor, learned: Sequence[Tensor]) -> None:
    """Run forward and backward, with newly allocated gradients."""
    out = attend(query)
    torch.autograd.grad(out, learned, torch.ones_like(out))


def learned_of(query: Tensor, tokens: Tokens, projection: TokenProjection) -> list[Tensor]:
    """Return all tensors whose gradients training computes."""
    return [query, *projection.parameters(), *(part for part in tokens.parts if part.requires_grad)]


def measure(case: Case, names: Sequence[str], *, seconds: float, repetitions: int) -> list[Result]:
    """Measure all forms of a case in turn. Ratios and errors are relative to the first form."""
    query, tokens, projection = set_up(case)
    learned = learned_of(query, tokens, projection)
    chosen = forms(tokens, projection, names)
    errors = _errors(chosen, query)

    def once(attend: Attend) -> Seconds:
        return timed(partial(forward, attend, query)), timed(partial(training, attend, query, learned))

    times = interleaved(
        {name: partial(once, attend) for name, attend in chosen.items()}, repetitions=repetitions, seconds=seconds
    )
    results = []
    for name, measured in times.items():
        (forward_seconds, training_seconds) = medians(measured)
        (forward_ratio, training_ratio) = ratios(times[names[0]], measured)
        results.append(
            Result(
                case=case.name,
                form=name,
                forward=forward_seconds,
                training=training_seconds,
                forward_ratio=forward_ratio,
                training_ratio=training_ratio,
                error=errors[name],
            )
        )
    return results


@torch.no_grad()
def _errors(chosen: Mapping[str, Attend], query: Tensor) -> dict[str, float]:
    """Return the largest difference from the first form, relative to that form's largest value."""
    expected = next(iter(chosen.values()))(query).double()
    scale = expected.abs().max()
    return {name: ((attend(query).double() - expected).abs().max() / scale).item() for name, attend in chosen.items()}


def peak_megabytes(case: Case, name: str, threads: int) -> float:
    """Return the peak resident memory that forward and backward add, in a fresh process warmed up with a small case."""
    return in_fresh_process(__file__, ["--one-peak", name, "--case", json.dumps(asdict(case)), "--threads", str(threads)])


def print_peak(case: Case, name: str) -> None:
    """Measure and print the result of `peak_megabytes`, inside its process."""

    def work(of: Case) -> Callable[[], object]:
        query, tokens, projection = set_up(of)
        (attend,) = forms(tokens, projection, [name]).values()
        return partial(training, attend, query, learned_of(query, tokens, projection))

    # A small case first, so that no build of native code falls into the measurement.
    work(replace(case, grid=tuple(min(size, 16) for size in case.grid), latents=16, batch=1))()
    print(added_peak(work(case)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="besides the dense reference")
    parser.add_argument("--seconds", type=float, default=10, help="approximate time per case; at least three repetitions")
    parser.add_argument("--repetitions", type=int, default=15, help="at most")
    parser.add_argument("--memory", action="store_true", help="measure peak memory of training too, in fresh processes")
    parser.add_argument("--quick", action="store_true", help="tiny grids, one repetition, to test the script")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one-peak", choices=("dense", *FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.one_peak:
        case = json.loads(options.case)
        print_peak(Case(**{**case, "grid": tuple(case["grid"])}), options.one_peak)
        return
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no such case; available: {'; '.join(case.name for case in CASES)}")
    if options.quick:
        cases = [replace(case, grid=tuple(min(n, 6) for n in case.grid), batch=2, latents=8) for case in cases]
    facts = machine()
    announce(facts)
    memory_title = f"{'memory':>11} {'ratio':>7}" if options.memory else ""
    print(f"{'input':50} {'N':>4} {'form':8} {'forward':>10} {'+ backward':>11} {'ratios':>15} {'error':>8} {memory_title}")
    names = ["dense"]
    for name in FORMS:
        if name in options.forms and missing(name):
            print(f"{name}: left out, {missing(name)}")
        elif name in options.forms:
            names.append(name)
    results = []
    for case in cases:
        seconds, repetitions = (0, 1) if options.quick else (options.seconds, options.repetitions)
        measured = measure(case, names, seconds=seconds, repetitions=repetitions)
        for result in measured:
            memory = ""
            if options.memory:
                result.megabytes = peak_megabytes(case, result.form, options.threads)
                dense = measured[0].megabytes
                assert dense is not None
                # Unmeasurably small memory counts as a tenth of a megabyte.
                result.memory_ratio = dense / max(result.megabytes, 0.1)
                memory = f"{result.megabytes:8.1f} MB {result.memory_ratio:6.1f}x"
            print(
                f"{case.name:50} {case.latents:4} {result.form:8} "
                f"{result.forward * 1e3:7.2f} ms {result.training * 1e3:8.2f} ms "
                f"{result.forward_ratio:6.1f}x {result.training_ratio:6.1f}x {result.error:8.1e} {memory}",
                flush=True,
            )
            results.append(asdict(result))
    if options.json:
        write_json(options.json, facts, results)


if __name__ == "__main__":
    main()
