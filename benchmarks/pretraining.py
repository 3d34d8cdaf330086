"""What masked autoencoding without labels is worth: 1,000 labels of MNIST after it, and the same labels from scratch.

    python benchmarks/pretraining.py [--seeds 1 2 3] [--folder runs/pretraining] [--set KEY=VALUE …]

For each seed three runs of train.py: `experiment=mnist_pretrain`, `experiment=mnist_finetune` from it, and
`experiment=mnist_few_labels`, the same model on the same labels from scratch. Each side has the learning rate and the number
of epochs that were best on validation images; test images are opened here. Prints test accuracies, their means and
standard deviations over the seeds, and the difference seed by seed. Runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = REPOSITORY / "train.py"
SIDES = {"pretrained": "mnist_finetune", "from scratch": "mnist_few_labels"}


def run(directory: Path, *overrides: str) -> dict[str, float]:
    """The metrics of a run, which is made if it is not there yet.

    Raises:
        RuntimeError: it failed; says how.
    """
    metrics = directory / "metrics.json"
    if not metrics.is_file():
        command = [sys.executable, str(TRAIN), *overrides, f"hydra.run.dir={directory}"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def compare(seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics of the three runs of a seed."""
    common = (f"seed={seed}", *overrides)
    pretraining = run(folder / f"pretrain_{seed}", "experiment=mnist_pretrain", *common)
    start = f"init_from={folder / f'pretrain_{seed}'}"
    found = {"pretraining": pretraining}
    for side, experiment in SIDES.items():
        own = (start,) if side == "pretrained" else ()
        found[side] = run(folder / f"{experiment}_{seed}", f"experiment={experiment}", *own, *common)
    return found


def summary(values: Sequence[float]) -> str:
    """Mean and standard deviation, in per cent or points."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "pretraining")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of all runs, as train.py takes them")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    print(f"{'seed':>4} {'pretraining':>12} {'pretrained':>11} {'from scratch':>13} {'difference':>11}", flush=True)
    accuracies: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in options.seeds:
        found = compare(seed, folder, options.set)
        for side, own in accuracies.items():
            own.append(found[side]["test/accuracy"])
        own, other = (accuracies[side][-1] for side in SIDES)
        print(
            f"{seed:4} {found['pretraining']['seconds']:10.0f} s {100 * own:9.2f} % {100 * other:11.2f} % "
            f"{100 * (own - other):+11.2f}",
            flush=True,
        )
    own, other = accuracies.values()
    print(f"test accuracy, mean ± standard deviation: pretrained {summary(own)} %, from scratch {summary(other)} %")
    print(f"difference: {summary([a - b for a, b in zip(own, other, strict=True)])} points over {len(own)} seeds")


if __name__ == "__main__":
    main()
