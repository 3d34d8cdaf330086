"""Presets on small data as people hold it: folders of images and recordings, manifests of series; no setting but the preset.

    python benchmarks/presets.py FOLDER [--sets mnist spoken_digits shapelets …] [--preset good] [--seeds 0 1] [--json FILE]

FOLDER gets the data, made from `$PERCEIVER_DATA` (default: data), and a run directory per training:

- `mnist`: 1,000 training images, validation included, and 2,000 test images as PNG files in a folder per class.
- `spoken_digits`: the 2,700 training and 300 test recordings of the official split in a folder per digit.
- the five sets of series of `benchmarks/small_series.py`, as manifests.

The reference is the nearest neighbour by Euclidean distance on the raw values: pixels, series, and waveforms that are padded
to the longest. Each training runs as `python train.py preset=NAME` in a process of its own, as on the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import small_series
import soundfile
from numpy.typing import NDArray
from PIL import Image

from perceiver.data.datasets.spoken_digits import ALL, NUM_TEST
from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.loading.splits import stratified_split

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES, NUM_TEST_IMAGES = 1_000, 2_000
_QUIET = ("logger=none", "callbacks.figures=null", "callbacks.report=null", "callbacks.progress.epochs_per_line=1000")

Split = tuple[NDArray[np.float32], NDArray[np.int64]]


def data_folder() -> Path:
    """Return the folder of the original data."""
    return Path(os.environ.get("PERCEIVER_DATA", "data")).resolve()


def mnist(folder: Path) -> tuple[list[str], float]:
    """Write the images; return the overrides that train on them, and the accuracy of the nearest neighbour."""
    source = MNIST(root=data_folder(), download=False)
    splits: dict[str, Split] = {}
    for split, size in (("train", NUM_IMAGES), ("test", NUM_TEST_IMAGES)):
        images = source.read(split)
        chosen = images.take(stratified_split(images.labels, size=size, seed=0, name="size")[1])
        for number, (pixels, label) in enumerate(zip(chosen.pixels, chosen.labels.tolist(), strict=True)):
            place = folder / "mnist" / split / str(label) / f"{number:04}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                Image.fromarray(pixels[0].numpy()).save(place)
        splits[split] = (chosen.pixels.flatten(1).float().numpy(), chosen.labels.numpy())
    return ["data=image_folder", f"data.root={folder / 'mnist'}"], nearest_neighbour(splits["train"], splits["test"])


def spoken_digits(folder: Path) -> tuple[list[str], float]:
    """Link the recordings; return the overrides that train on them, and the accuracy of the nearest neighbour."""
    recordings = data_folder() / "free-spoken-digit-dataset" / "recordings"
    waves: dict[str, list[NDArray[np.float32]]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for one in ALL:
        split = "test" if one.index < NUM_TEST else "train"
        place = folder / "spoken_digits" / split / str(one.digit) / one.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(recordings / one.name)
        waves[split].append(soundfile.read(recordings / one.name, dtype="float32")[0])
        labels[split].append(one.digit)
    longest = max(len(wave) for own in waves.values() for wave in own)
    splits = {
        split: (np.stack([np.pad(wave, (0, longest - len(wave))) for wave in own]), np.array(labels[split]))
        for split, own in waves.items()
    }
    overrides = ["data=audio_folder", f"data.root={folder / 'spoken_digits'}"]
    return overrides, nearest_neighbour(splits["train"], splits["test"])


def series(name: str) -> Callable[[Path], tuple[list[str], float]]:
    """Return a function as the others for a set of series."""

    def make(folder: Path) -> tuple[list[str], float]:
        path = small_series.write(name, folder / "series")
        overrides = ["data=manifest", f"data.manifest={path}", small_series.MODALITIES, "data.num_workers=0"]
        return overrides, small_series.nearest_neighbour(name)

    return make


SETS = {"mnist": mnist, "spoken_digits": spoken_digits, **{name: series(name) for name in small_series.SETS}}


def nearest_neighbour(known: Split, asked: Split) -> float:
    """Return the share of samples whose nearest known sample, by Euclidean distance, has their class."""
    squares = (known[0] ** 2).sum(axis=1)
    nearest = (squares - 2 * asked[0] @ known[0].T).argmin(axis=1)
    return float((known[1][nearest] == asked[1]).mean())


def trained(overrides: Sequence[str], directory: Path) -> dict[str, Any]:
    """Train in a process of its own and return its metrics."""
    command = [sys.executable, str(ROOT / "train.py"), *overrides, *_QUIET, f"hydra.run.dir={directory}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_text())
    return metrics


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the data, train, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--preset", choices=("fast", "good", "best"), default="good")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], help="further overrides")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    folder, results = options.folder.resolve(), {}
    print(f"preset={options.preset}")
    print(f"{'set':24}{'1-NN':>8}{'ours':>8}{'val':>8}{'epochs':>8}   by seed          seconds", flush=True)
    for name in options.sets:
        overrides, neighbour = SETS[name](folder)
        scores, started, last = [], time.perf_counter(), {}
        for seed in options.seeds:
            directory = folder / "runs" / f"{name}_{options.preset}_{seed}_{time.time_ns()}"
            last = trained([*overrides, f"preset={options.preset}", f"seed={seed}", *options.set], directory)
            scores.append(last["test/accuracy"])
        seconds = (time.perf_counter() - started) / len(options.seeds)
        results[name] = {"nearest_neighbour": neighbour, "accuracy": scores, "seconds": seconds}
        each = " ".join(f"{score:.1%}" for score in scores)
        mean, validation = statistics.fmean(scores), last["val/accuracy"]
        print(
            f"{name:24}{neighbour:8.1%}{mean:8.1%}{validation:8.1%}{last['epochs']:8}   {each:16} {seconds:.0f}", flush=True
        )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
