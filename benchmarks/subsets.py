"""Accuracy of a trained model with each subset of its modalities, and against models trained on exactly that subset.

    python benchmarks/subsets.py RUN_DIR [RUN_DIR …] [--set test_pairs=2000 …] [--validation] [--json FILE]

RUN_DIR is the folder of a training run on data=av_digits or trimodal_digits; its best checkpoint is used. The data is that
of its config.yaml, changed by `--set`. Use trusted runs only, since that file names the classes to build. The model is
evaluated on every non-empty subset of modalities, always on the same seeded pairs with the same corruption.

Intervals are 95% percentile intervals of a bootstrap that draws whole recordings with replacement, because pairs that share
a recording are not independent. Further runs are evaluated on the full set of their modalities and compared with the first
model on that subset, pair by pair. The line under the table is the gain of all modalities over the best single modality.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

import perceiver
from perceiver.checkpoints.file import read
from perceiver.data import DataModule
from perceiver.data.synthetic.matching import SEPARATOR
from perceiver.data.synthetic.paired_digits import PairedDigits
from perceiver.model import Perceiver
from perceiver.run.assembly.data import make_data

RECORDINGS = "spoken_digits/"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, in percent."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:6.2f}  [{self.low:.2f}, {self.high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate and print."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    first, *others = [evaluate(run, changes=options.set, validation=options.validation) for run in options.runs]
    for run, other in zip(options.runs[1:], others, strict=True):
        if other.ids != first.ids:
            raise ValueError(
                f"{run}: expected the same pairs as in {options.runs[0]}; --set the same pair_seed and numbers of pairs."
            )
    clusters = recordings(first.ids)
    weights = resampled(len(set(clusters)), seed=options.seed)
    rows: list[dict[str, Any]] = []
    for subset, correct in first.correct.items():
        estimate = interval(correct, clusters, weights)
        rows.append(_row(subset, options.runs[0], estimate))
        print(f"{' + '.join(subset):24}{estimate}")
        for run, other in zip(options.runs[1:], others, strict=True):
            if subset == other.modalities:
                accuracy = interval(other.correct[subset], clusters, weights)
                difference = interval(correct - other.correct[subset], clusters, weights)
                rows.append({**_row(subset, run, accuracy), "first_minus_this": vars(difference)})
                print(f"{'  trained on these only':24}{accuracy}   first minus this {difference}  {run}")
    gain = None
    if len(first.modalities) > 1:
        best = max((s for s in first.correct if len(s) == 1), key=lambda subset: float(first.correct[subset].mean()))
        gain = interval(first.correct[first.modalities] - first.correct[best], clusters, weights)
        print(f"{'all minus ' + best[0]:24}{gain}")
    print(f"{len(first.ids)} pairs, {len(set(clusters))} recordings, {'validation' if options.validation else 'test'} split")
    if options.json is not None:
        written = {"pairs": len(first.ids), "recordings": len(set(clusters)), "results": rows}
        written["machine"] = {"threads": options.threads}
        if gain is not None:
            written["all_minus_best_single"] = vars(gain)
        options.json.write_text(json.dumps(written, indent=2) + "\n")


@dataclass(frozen=True)
class Evaluation:
    """Correctness of a model's predictions for each pair.

    Args:
        modalities: the model's modalities, sorted.
        ids: ids of the pairs, `(pairs,)`.
        correct: by sorted subset, `(pairs,)`: 1 if correct, else 0.
    """

    modalities: tuple[str, ...]
    ids: list[str]
    correct: dict[tuple[str, ...], NDArray[np.float64]]


def evaluate(run: Path, *, changes: Sequence[str] = (), validation: bool = False) -> Evaluation:
    """Evaluate a run's best model with every subset of modalities, on all pairs of the test (or validation) split."""
    config = OmegaConf.merge(OmegaConf.load(run / "config.yaml").data, OmegaConf.from_dotlist(list(changes)))
    data = make_data(config)
    if not isinstance(data, DataModule) or not isinstance(data.source, PairedDigits):
        raise ValueError(f"{run}: expected a run on data=av_digits or data=trimodal_digits, got {config._target_}.")
    data.prepare_data()
    spec = read(run).spec
    assert spec is not None
    data.spec = spec
    model = perceiver.load(run)
    modalities = tuple(sorted(model.adapters))
    subsets = [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]
    ids: list[str] = []
    correct: dict[tuple[str, ...], list[torch.Tensor]] = {subset: [] for subset in subsets}
    for batch in data.val_dataloader() if validation else data.test_dataloader():
        ids += batch.ids
        for subset in subsets:
            correct[subset].append(_predicted(model, batch.inputs, batch.masks, subset) == batch.target)
    return Evaluation(modalities, ids, {subset: torch.cat(rows).double().numpy() for subset, rows in correct.items()})


@torch.inference_mode()
def _predicted(
    model: Perceiver, inputs: Mapping[str, Any], masks: Mapping[str, torch.Tensor], subset: Sequence[str]
) -> torch.Tensor:
    outputs = model({name: inputs[name] for name in subset}, {name: masks[name] for name in subset if name in masks})
    return outputs.argmax(dim=1)


def recordings(ids: Sequence[str]) -> list[str]:
    """Return the recording in each pair's id."""
    return [next(part for part in pair.split(SEPARATOR) if part.startswith(RECORDINGS)) for pair in ids]


def resampled(clusters: int, *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Return the count of each cluster in each bootstrap sample, `(resamples, clusters)`; each row sums to `clusters`."""
    random = np.random.default_rng(seed)
    return random.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def interval(values: NDArray[np.float64], clusters: Sequence[str], weights: NDArray[np.float64]) -> Estimate:
    """Return the mean of `(pairs,)` values in percent, with the 2.5th and 97.5th percentiles of its bootstrap distribution.

    A bootstrap sample contains all pairs of the drawn clusters, so its size varies (ratio estimator).
    """
    _, members = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(members, weights=values), np.bincount(members)
    means = 100 * (weights @ sums) / (weights @ sizes)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(100 * float(values.mean()), float(low), float(high))


def _row(subset: Sequence[str], run: Path, estimate: Estimate) -> dict[str, Any]:
    return {"modalities": list(subset), "run": str(run), **vars(estimate)}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="data settings, e.g. root=DIR")
    parser.add_argument("--validation", action="store_true", help="validation pairs, to tune without seeing the test")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
