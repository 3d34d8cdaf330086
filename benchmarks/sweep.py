"""Check that `attention=auto` picks the fastest form: dense, absorbed and factored against its choice, over many shapes.

    python benchmarks/sweep.py [--threads 1] [--shapes 48] [--seed 0] [--only points] [--json FILE]

Each kind of input (images, sound, video, embedded grids with learned tables, point sets, text) is drawn several times from a
seeded generator: grid, content, bands, latents, heads, batch. The factored form runs on the fastest available
implementation. The choice is made as in a model, with and without gradients. If it takes more than 10% longer than the best
form, the shape is measured again with more repetitions, and the second measurement counts.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from attention import Case, learned_of, set_up
from measure import Seconds, announce, interleaved, machine, medians, timed, write_json
from torch import Tensor

from perceiver.attention.cross import CrossAttention
from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention

FORMS = {"dense": dense_attention, "absorbed": absorbed_attention, "factored": factored_attention}
MISS = 1.1
"""Regret above which a choice counts as missed."""
MOST_PRODUCTS = 6e9
"""Multiply-adds of the dense form above which a shape is too slow for a sweep."""
MOST_SCORES = 1e8
"""Scores above which a shape is too slow for a sweep."""


@dataclass
class Choice:
    """A shape: seconds of each form, the choice of auto, and its regret, the ratio of its time to that of the best form."""

    case: Case
    forward: dict[str, float]
    training: dict[str, float]
    forward_choice: str
    training_choice: str
    repetitions: int

    @property
    def forward_regret(self) -> float:
        return self.forward[self.forward_choice] / min(self.forward.values())

    @property
    def training_regret(self) -> float:
        return self.training[self.training_choice] / min(self.training.values())

    @property
    def missed(self) -> bool:
        return max(self.forward_regret, self.training_regret) > MISS


def image(draw: random.Random) -> Case:
    side = draw.choice((8, 16, 28, 32, 56, 64, 112, 160, 224))
    return Case(
        "image", (side, draw.choice((side, side * 4 // 3))), draw.choice((1, 3, 48, 64)), draw.choice((6, 16, 32, 64))
    )


def series(draw: random.Random) -> Case:
    length = draw.choice((64, 200, 1000, 4000, 16000, 100_000))
    return Case("series", (length,), draw.choice((1, 8, 48, 128, 256)), draw.choice((8, 32, 64, 192)))


def spectrogram(draw: random.Random) -> Case:
    return Case("spectrogram", (draw.choice((32, 64, 128)), draw.choice((100, 400, 800))), 1, draw.choice((16, 32, 64)))


def video(draw: random.Random) -> Case:
    side = draw.choice((8, 14, 28, 56))
    return Case("video", (draw.choice((4, 8, 16)), side, side), draw.choice((1, 3, 48, 192)), draw.choice((8, 32)))


def table(draw: random.Random) -> Case:
    side = draw.choice((8, 14, 28, 56, 112))
    width = draw.choice((16, 64, 256))
    return Case("table", (side, side), width, table=draw.choice((16, width)), embedded=True)


def points(draw: random.Random) -> Case:
    number = draw.choice((64, 256, 1024, 2048, 10_000))
    return Case("points", (number,), draw.choice((3, 6)), draw.choice((0, 8, 64)), points=3)


def text(draw: random.Random) -> Case:
    width = draw.choice((32, 128, 256))
    return Case("text", (draw.choice((64, 256, 1024, 2048)),), width, table=width, embedded=True)


KINDS: tuple[Callable[[random.Random], Case], ...] = (image, series, spectrogram, video, table, points, text)


def shapes(number: int, seed: int) -> list[Case]:
    """Draw `number` cases, the kinds in turn, each small enough for a sweep."""
    draw = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < number:
        kind = KINDS[len(cases) % len(KINDS)]
        drawn = kind(draw)
        case = Case(
            name=drawn.name,
            grid=drawn.grid,
            content=drawn.content,
            bands=drawn.bands,
            table=drawn.table,
            points=drawn.points,
            embedded=drawn.embedded,
            latents=draw.choice((16, 32, 64, 128, 256, 512)),
            heads=draw.choice((1, 1, 1, 4, 8, 16)),
            batch=draw.choice((1, 1, 2, 4, 8, 16, 64)),
        )
        if fits(case) and case not in cases:
            cases.append(case)
    return cases


def channels(case: Case) -> int:
    """Return C of a case."""
    axes = case.points or len(case.grid)
    return case.content + (case.table or axes * (2 * case.bands + 1))


def fits(case: Case) -> bool:
    """Whether all forms are fast enough for a sweep."""
    tokens = case.batch * prod(case.grid)
    products = 2 * tokens * channels(case) * (channels(case) + case.latents)
    return products <= MOST_PRODUCTS and tokens * case.latents * case.heads <= MOST_SCORES


def measure(case: Case, *, seconds: float, repetitions: int) -> Choice:
    """Measure all forms of a case in turn, and record the choice."""
    query, tokens, projection = set_up(case)
    learned = learned_of(query, tokens, projection)
    attention = CrossAttention(
        query_channels=8,
        token_channels=tokens.channels,
        num_heads=case.heads,
        qk_channels=projection.key.out_features,
        v_channels=projection.value.out_features,
    )

    def forward(form: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            form(query, [tokens], projection)

    def training(form: Callable[..., Tensor]) -> None:
        out = form(query, [tokens], projection)
        torch.autograd.grad(out, learned, torch.ones_like(out))

    def once(form: Callable[..., Tensor]) -> Seconds:
        return timed(partial(forward, form)), timed(partial(training, form))

    times = interleaved(
        {name: partial(once, form) for name, form in FORMS.items()}, repetitions=repetitions, seconds=seconds
    )
    seconds_by_form = {name: medians(measured) for name, measured in times.items()}
    with torch.no_grad():
        forward_choice = attention.form([tokens], num_queries=case.latents)
    return Choice(
        case=case,
        forward={name: forward_seconds for name, (forward_seconds, _) in seconds_by_form.items()},
        training={name: training_seconds for name, (_, training_seconds) in seconds_by_form.items()},
        forward_choice=forward_choice,
        training_choice=attention.form([tokens], num_queries=case.latents),
        repetitions=len(times["dense"]),
    )


def describe(case: Case) -> str:
    """Describe a shape in a few characters."""
    positions = f"table {case.table}" if case.table else f"{case.bands} bands"
    return f"{case.name} {'x'.join(map(str, case.grid))}x{case.content}, {positions}"


def print_choice(choice: Choice) -> None:
    """Print a line of the table: milliseconds of each form, forward and training, and the choice's regret."""
    case = choice.case
    columns = " ".join(f"{choice.forward[name] * 1e3:8.2f} {choice.training[name] * 1e3:8.2f}" for name in FORMS)
    chosen = choice.forward_choice
    if choice.training_choice != chosen:
        chosen += f"/{choice.training_choice}"
    print(
        f"{describe(case):40} {channels(case):4} {case.latents:4} {case.heads:3} {case.batch:3} {columns} {chosen:>18} "
        f"{choice.forward_regret:6.2f} {choice.training_regret:6.2f}{' missed' if choice.missed else ''}",
        flush=True,
    )


def summary(choices: Sequence[Choice]) -> list[str]:
    """Return lines with the number of choices within 10% of the best form, and the worst choice."""
    lines = []
    for kind, regret in (("forward", Choice.forward_regret), ("training", Choice.training_regret)):
        assert isinstance(regret, property)
        assert regret.fget is not None
        regrets = [regret.fget(choice) for choice in choices]
        worst = max(range(len(choices)), key=regrets.__getitem__)
        within = sum(value <= MISS for value in regrets)
        case = choices[worst].case
        lines.append(
            f"{kind}: {within} of {len(choices)} within 10% of the best form; worst {regrets[worst]:.2f}x: "
            f"{describe(case)}, {case.latents} latents, {case.heads} heads, batch {case.batch}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--seconds", type=float, default=3, help="approximate time per shape; at least three repetitions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cases = [case for case in shapes(options.shapes, options.seed) if options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no shape of that kind among {options.shapes}")
    facts = machine()
    announce(facts)
    forms = " ".join(f"{name:>17}" for name in FORMS)
    print(f"{'input (forward and training, ms)':40} {'C':>4} {'N':>4} {'h':>3} {'B':>3} {forms} {'auto':>18} {'regret':>13}")
    choices = []
    for case in cases:
        choice = measure(case, seconds=options.seconds, repetitions=15)
        if choice.missed:
            choice = measure(case, seconds=4 * options.seconds, repetitions=60)
        print_choice(choice)
        choices.append(choice)
    for line in summary(choices):
        print(line)
    if options.json:
        results = [
            {**asdict(choice), "forward_regret": choice.forward_regret, "training_regret": choice.training_regret}
            for choice in choices
        ]
        write_json(options.json, facts, results, summary=summary(choices))


if __name__ == "__main__":
    main()
