"""Five small sets of time series, trained by manifest, against the nearest neighbour on the raw values.

    python benchmarks/small_series.py FOLDER [--sets shapelets …] [--seeds 0 1 2] [--validate] [--set optimizer.lr=1e-3 …]

The sets are in the manner of the UCR archive (Dau et al. 2019): 36 to 270 training series, a class each, separate test
series, all normalised one by one. They are made here, with fixed seeds, from published definitions:

- `cylinder_bell_funnel`: a plateau, a rise or a fall of random place and height in noise (Saito 1994).
- `control_charts`: six shapes of control charts (Alcock and Manolopoulos 1999).
- `shapelets`: a step up or down, twice, at random places between noise (two patterns, Geurts 2002).
- `heartbeats`: a beat as a sum of five waves (McSharry et al. 2003), with the T wave upright or inverted, in noise.
- `outlines`: the distance of an outline from its centre, from a random point on, read at an uneven speed.

FOLDER gets a manifest for each set; a fifth of the training series is its validation split. `experiment=manifest` with
`adapter@model.adapters.series=timeseries_conv` and the settings in `RECIPE` trains through the code of `train.py`. With
`--validate` the test series are others, of another seed: choose settings so, and test them once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Random = np.random.Generator

MODALITIES = "data.modalities={series: {kind: timeseries, step_seconds: 1.0}}"
_AUGMENT = "perceiver.data.augmentation.series"
RECIPE = (
    "+adapter@model.adapters.series=timeseries_conv",
    "model.adapters.series.stage_channels=[32,64,64]",
    "model.encoder.num_latents=8",
    "model.encoder.latent_channels=64",
    "model.encoder.num_cross_attends=1",
    "model.encoder.num_blocks=1",
    "data.batch_size=32",
    "data.steps_per_epoch=50",
    "trainer.max_epochs=12",
    "optimizer.lr=2e-3",
    "data.augment={series: {"
    f"jitter: {{_target_: {_AUGMENT}.RandomJitter, std: 0.1}}, "
    f"scale: {{_target_: {_AUGMENT}.RandomScale, scale: [0.8, 1.25]}}, "
    f"warp: {{_target_: {_AUGMENT}.RandomTimeWarp, strength: 0.2}}, "
    f"crop: {{_target_: {_AUGMENT}.RandomCrop, share: [0.8, 1.0]}}}}}}",
    "averaging=ema",
    "callbacks.averaging.multi_avg_fn.decay=0.99",
    "callbacks.best.monitor=val/loss",
    "callbacks.best.mode=min",
)
"""Settings of all five sets, chosen on other series than those of the tests (`--validate`)."""

_QUIET = ("logger=none", "callbacks.figures=null", "callbacks.report=null", "callbacks.progress.epochs_per_line=1000")


def cylinder_bell_funnel(label: int, random: Random) -> Array:
    """Return a series of 128 steps of class 0, 1 or 2."""
    steps = np.arange(128)
    start = random.integers(16, 33)
    end = start + random.integers(32, 97)
    inside = (steps >= start) & (steps <= end)
    rise = (steps - start) / (end - start)
    shape = (np.ones(128), rise, 1 - rise)[label]
    return (6 + random.normal()) * inside * shape + random.normal(size=128)


def control_charts(label: int, random: Random) -> Array:
    """Return a series of 60 steps: normal, cyclic, increasing, decreasing, shifted up, shifted down."""
    steps = np.arange(60)
    series = 30 + 2 * random.uniform(-3, 3, size=60)
    if label == 1:
        series += random.uniform(10, 15) * np.sin(2 * np.pi * steps / random.uniform(10, 15))
    elif label in (2, 3):
        series += (1 if label == 2 else -1) * random.uniform(0.2, 0.5) * steps
    elif label in (4, 5):
        series += (1 if label == 4 else -1) * random.uniform(7.5, 20) * (steps >= random.integers(20, 41))
    return np.asarray(series)


def shapelets(label: int, random: Random) -> Array:
    """Return a series of 128 steps with two steps: up or down, then up or down."""
    series = 0.1 * random.normal(size=128)
    first = random.integers(4, 44)
    second = first + 24 + random.integers(0, 128 - 28 - first - 24)
    for place, down in ((first, label % 2), (second, label // 2)):
        length = random.integers(12, 25)
        half = length // 2
        sign = -1.0 if down else 1.0
        series[place : place + half] = -5 * sign + random.normal(size=half) * 0.5
        series[place + half : place + length] = 5 * sign + random.normal(size=length - half) * 0.5
    return np.asarray(series)


def heartbeats(label: int, random: Random) -> Array:
    """Return a beat of 96 steps: P, Q, R, S and T waves; class 1 has a T wave that is inverted or flat."""
    steps = np.arange(96)
    shift, pace = random.uniform(-6, 6), random.uniform(0.9, 1.1)
    tall = random.uniform(0.25, 0.4) if label == 0 else random.uniform(-0.35, 0.05)
    waves = ((24, 4, 0.2), (38, 1.6, -0.15), (42, 2, 1.2), (46, 1.6, -0.3), (66, 6, tall))
    series = sum(
        height * random.uniform(0.85, 1.15) * np.exp(-0.5 * ((steps - (48 + (place - 48) * pace + shift)) / width) ** 2)
        for place, width, height in waves
    )
    wander = random.uniform(0, 0.15) * np.sin(2 * np.pi * (steps / 96 * random.uniform(0.5, 1.5) + random.uniform()))
    return np.asarray(series + wander + 0.08 * random.normal(size=96))


_LOBES = ((2, 3), (2, 4), (3, 4), (3, 5), (4, 5))


def outlines(label: int, random: Random) -> Array:
    """Return 120 distances along an outline of two frequencies of lobes, of one of five classes."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    angle = angle + random.uniform(0, 0.6) * np.sin(angle + random.uniform(0, 2 * np.pi)) + random.uniform(0, 2 * np.pi)
    slow, fast = _LOBES[label]
    distance = 1 + 0.25 * np.cos(slow * angle) + 0.15 * np.cos(fast * angle + 1)
    return np.asarray(distance + 0.04 * random.normal(size=120))


SETS: dict[str, tuple[Callable[[int, Random], Array], int, int]] = {
    "cylinder_bell_funnel": (cylinder_bell_funnel, 3, 36),
    "control_charts": (control_charts, 6, 270),
    "shapelets": (shapelets, 4, 100),
    "heartbeats": (heartbeats, 2, 60),
    "outlines": (outlines, 5, 75),
}
"""By name: the function, its number of classes, and the number of training series, validation included."""

NUM_TEST = 300
_TRAINING, _TEST, _VALIDATION = 1, 2, 3  # seeds


def made(name: str, *, test_seed: int = _TEST) -> dict[str, tuple[Array, NDArray[np.int64]]]:
    """Return series `(N, T)` and classes `(N,)` of the splits train, val and test, each series of mean 0 and variance 1."""
    make, classes, count = SETS[name]
    splits = {}
    for split, size, seed in (("train", count, _TRAINING), ("test", NUM_TEST, test_seed)):
        random = np.random.default_rng([seed, list(SETS).index(name)])
        labels = np.arange(size) % classes
        series = np.stack([make(int(label), random) for label in labels])
        series = (series - series.mean(axis=1, keepdims=True)) / series.std(axis=1, keepdims=True)
        splits[split] = (series, labels)
    series, labels = splits["train"]
    validation = np.arange(count) // classes % 5 == 4
    splits |= {"train": (series[~validation], labels[~validation]), "val": (series[validation], labels[validation])}
    return splits


def write(name: str, folder: Path, *, test_seed: int = _TEST) -> Path:
    """Write the manifest of a set as JSON lines, and return its path."""
    path = folder / f"{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for split, (series, labels) in made(name, test_seed=test_seed).items():
            for number, (values, label) in enumerate(zip(series, labels, strict=True)):
                row = {
                    "id": f"{split}-{number}",
                    "split": split,
                    "series": values.round(5).tolist(),
                    "label": f"class {label}",
                }
                file.write(json.dumps(row) + "\n")
    return path


def nearest_neighbour(name: str, *, test_seed: int = _TEST) -> float:
    """Return the accuracy of the class of the nearest series of training and validation, by Euclidean distance."""
    splits = made(name, test_seed=test_seed)
    known, classes = (np.concatenate(pair) for pair in zip(splits["train"], splits["val"], strict=True))
    series, labels = splits["test"]
    distance = ((series[:, None] - known[None]) ** 2).sum(axis=2)
    return float((classes[distance.argmin(axis=1)] == labels).mean())


def trained(path: Path, overrides: Sequence[str], directory: Path) -> dict[str, Any]:
    """Train with `experiment=manifest` in this process, and return the metrics."""
    from hydra import compose, initialize_config_dir

    from perceiver.run.configuration.resolvers import register_resolvers
    from perceiver.run.job import run
    from perceiver.run.main import conf_directory

    register_resolvers()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        run(compose("train", overrides=[
            "experiment=manifest", f"run_dir={directory}", f"data.manifest={path}", MODALITIES, "data.num_workers=0",
            *_QUIET, *overrides,
        ]))  # fmt: skip
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    return metrics


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the manifests, train, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--validate", action="store_true", help="measure on further series, not on those of the test")
    parser.add_argument("--plain", action="store_true", help="leave out the settings of RECIPE")
    parser.add_argument("--set", nargs="+", default=[], help="further overrides")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    seed_of_test = _VALIDATION if options.validate else _TEST
    results: dict[str, Any] = {}
    print(f"{'set':24}{'train':>6}{'1-NN':>8}{'ours':>8}   by seed          seconds", flush=True)
    for name in options.sets:
        path, scores, started = write(name, options.folder, test_seed=seed_of_test), [], time.perf_counter()
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as directory:
                own = [*(() if options.plain else RECIPE), f"seed={seed}", *options.set]
                scores.append(trained(path, own, Path(directory) / "run")["test/accuracy"])
        seconds = (time.perf_counter() - started) / len(options.seeds)
        neighbour, mean = nearest_neighbour(name, test_seed=seed_of_test), statistics.fmean(scores)
        results[name] = {"nearest_neighbour": neighbour, "accuracy": scores, "seconds": seconds}
        each = " ".join(f"{score:.1%}" for score in scores)
        print(f"{name:24}{len(made(name)['train'][0]):6}{neighbour:8.1%}{mean:8.1%}   {each:16} {seconds:.0f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
