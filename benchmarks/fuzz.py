"""Mutate files and read them through every entry point until the processor time is over; all must end in clear errors.

    python benchmarks/fuzz.py --minutes 10
    python benchmarks/fuzz.py --only cells --number 1234

Prints a line per entry point: mutations tried, accepted and refused, and the faults: errors that are not meant for users,
more than 5 seconds, or more than 1 GB. Exits with 1 if there is a fault. `--number` repeats one mutation.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import torch
from fuzzing import DOORS, fuzz

MOST_ADDRESSES = 16 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="processor time, shared by the entry points")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", choices=DOORS, action="append", help="entry point; may be repeated")
    parser.add_argument("--number", type=int, default=None, help="the number of a single mutation")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, resource.RLIM_INFINITY))
    chosen = settings.only or list(DOORS)
    faults = 0
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
            attempt = DOORS[name](Path(folder))
            if settings.number is None:
                found = fuzz(name, attempt, seed=settings.seed, seconds=60 * settings.minutes / len(chosen))
            else:
                found = fuzz(name, attempt, seed=settings.seed, first=settings.number, count=1)
        tried = found.accepted + found.refused + len(found.faults)
        ends = f"{found.accepted:,} accepted, {found.refused:,} refused, {len(found.faults)} faults"
        print(f"{name}: {tried:,} mutations, {ends}", flush=True)
        kinds: dict[str, tuple[int, str]] = {}
        for _, number, fault in found.faults:
            kinds.setdefault(fault.strip().splitlines()[-1][:60], (number, fault))
        for number, fault in list(kinds.values())[:12]:
            print(f"  seed {settings.seed}, number {number}:\n{fault}", flush=True)
        faults += len(found.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
