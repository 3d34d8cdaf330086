"""Speed-up of a single cross-attend with several threads: the native form with one thread and with more, interleaved.

    python benchmarks/cores.py [--threads 2] [--only million] [--json FILE]

Each case runs with one thread and with `--threads` in turn. Ratios are taken within each repetition, and the table shows the
medians. Run nothing else at the same time, and do not pin the process to fewer cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from attention import CASES, Attend, Case, forms, forward, learned_of, missing, set_up, training
from measure import Seconds, announce, interleaved, machine, medians, ratios, timed, write_json
from torch import Tensor

LARGE = ("image 224x224x3", "video", "spectrogram", "million")
"""Name prefixes of cases that are large enough for several cores."""


@dataclass(frozen=True)
class Result:
    """Medians of a case: seconds with one thread and with more, and the ratios."""

    case: str
    threads: int
    forward_alone: float
    training_alone: float
    forward: float
    training: float
    forward_ratio: float
    training_ratio: float


def measure(case: Case, *, threads: int, seconds: float, repetitions: int) -> Result:
    """Measure a case with one thread and with `threads` in turn."""
    query, tokens, projection = set_up(case)
    learned = learned_of(query, tokens, projection)
    (attend,) = forms(tokens, projection, ["native"]).values()
    candidates = {str(number): partial(_once, number, attend, query, learned) for number in (1, threads)}
    alone, together = interleaved(candidates, repetitions=repetitions, seconds=seconds, minimum=min(5, repetitions)).values()
    return Result(case.name, threads, *medians(alone), *medians(together), *ratios(alone, together))


def _once(threads: int, attend: Attend, query: Tensor, learned: Sequence[Tensor]) -> Seconds:
    torch.set_num_threads(threads)
    forward(attend, query)  # wake threads that were idle during the other candidate's turn
    return timed(partial(forward, attend, query)), timed(partial(training, attend, query, learned))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=5, help="approximate time per case; at least five repetitions")
    parser.add_argument("--repetitions", type=int, default=40, help="at most")
    parser.add_argument("--quick", action="store_true", help="tiny grids, one repetition, to test the script")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.threads < 2:
        parser.error(f"--threads: expected at least 2, for the comparison with one thread; got {options.threads}")
    if reason := missing("native"):
        parser.error(f"the native form is not available: {reason}")
    cases = [case for case in CASES if case.name.startswith(LARGE) and options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no such large case")
    if options.quick:
        cases = [replace(case, grid=tuple(min(n, 6) for n in case.grid), batch=2, latents=8) for case in cases]
    before = torch.get_num_threads()
    facts = machine()
    announce(facts)
    print(f"{'input':50} {'N':>4} {'one thread':>21} {f'{options.threads} threads':>21} {'ratios':>13}")
    results = []
    for case in cases:
        seconds, repetitions = (0, 1) if options.quick else (options.seconds, options.repetitions)
        result = measure(case, threads=options.threads, seconds=seconds, repetitions=repetitions)
        print(
            f"{result.case:50} {case.latents:4} {result.forward_alone * 1e3:7.2f} {result.training_alone * 1e3:8.2f} ms "
            f"{result.forward * 1e3:9.2f} {result.training * 1e3:8.2f} ms "
            f"{result.forward_ratio:6.2f}x {result.training_ratio:5.2f}x",
            flush=True,
        )
        results.append(asdict(result))
    torch.set_num_threads(before)
    if options.json:
        write_json(options.json, facts, results)


if __name__ == "__main__":
    main()
