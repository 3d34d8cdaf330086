"""Benefit of masked autoencoding without labels: fine-tuning on 1,000 MNIST labels against training from scratch.

    python benchmarks/pretraining.py [--seeds 1 2 3] [--folder runs/pretraining] [--set KEY=VALUE …]

For each seed there are three runs of train.py: `experiment=mnist_pretrain`, `experiment=mnist_finetune` from it, and
`experiment=mnist_few_labels`, the same model on the same labels from scratch. Each side uses the learning rate and the
number of epochs that were best on validation images; test images are used only here. Prints test accuracies, their means
and standard deviations over the seeds, and the difference for each seed. Existing runs are not repeated.
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
    """Return the metrics of a run, after training it if they do not exist.

    Raises:
        RuntimeError: if the run failed, with the end of its error output.
    """
    metrics = directory / "metrics.json"
    if not metrics.is_file():
        command = [sys.executable, str(TRAIN), *overrides, f"hydra.run.dir={directory}"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with exit status {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def compare(seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the metrics of the three runs of a seed."""
    common = (f"seed={seed}", *overrides)
    pretraining = run(folder / f"pretrain_{seed}", "experiment=mnist_pretrain", *common)
    start = f"init_from={folder / f'pretrain_{seed}'}"
    found = {"pretraining": pretraining}
    for side, experiment in SIDES.items():
        weights = (start,) if side == "pretrained" else ()
        found[side] = run(folder / f"{experiment}_{seed}", f"experiment={experiment}", *weights, *common)
    return found


def summary(values: Sequence[float]) -> str:
    """Format mean and standard deviation in percent or percentage points."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train missing runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "pretraining")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of train.py for all runs")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    print(f"{'seed':>4} {'pretraining':>12} {'pretrained':>11} {'from scratch':>13} {'difference':>11}", flush=True)
    accuracies: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in options.seeds:
        found = compare(seed, folder, options.set)
        for side, values in accuracies.items():
            values.append(found[side]["test/accuracy"])
        tuned, scratch = (accuracies[side][-1] for side in SIDES)
        print(
            f"{seed:4} {found['pretraining']['seconds']:10.0f} s {100 * tuned:9.2f} % {100 * scratch:11.2f} % "
            f"{100 * (tuned - scratch):+11.2f}",
            flush=True,
        )
    all_tuned, all_scratch = accuracies.values()
    differences = [tuned - scratch for tuned, scratch in zip(all_tuned, all_scratch, strict=True)]
    print(
        f"test accuracy, mean ± standard deviation: pretrained {summary(all_tuned)} %, from scratch {summary(all_scratch)} %"
    )
    print(f"difference: {summary(differences)} points over {len(differences)} seeds")


if __name__ == "__main__":
    main()
