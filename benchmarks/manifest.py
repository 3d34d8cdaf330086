"""Throughput of a manifest's files against training, and growth of memory, on rows with image, sound and time series.

    python benchmarks/manifest.py FOLDER [--rows 10000] [--workers 2] [--epochs 6] [--set model.encoder.num_latents=64 …]
    python benchmarks/manifest.py FOLDER --shards [--repetitions 3]

The first call writes `manifest.csv` and its files to FOLDER; later calls reuse them. Images are MNIST digits as PNG, and
recordings are spoken digits of the same class as WAV, both from $PERCEIVER_DATA if present; otherwise scikit-learn's digits
and tones. The time series, a CSV file each, give the amount and the position of the ink in each row of another digit of the
class. A random fifth of the cells is empty, but never a whole row.

Then `experiment=manifest` trains through the code of `train.py`, in this process. After every training epoch the same loader
with the same workers is read for an epoch without training. So the two figures alternate: samples per second of training
as a user sees it, with busy workers, and of data alone. The first epoch, which starts the workers, is excluded. Memory is
that of the main process and its workers after each epoch, with shared pages divided among the processes that share them
(PSS, or resident memory if unavailable), and its slope over all epochs but the first two.

With `--shards` the manifest is packed into FOLDER/shards, once, and trainings from files and from shards alternate. Ratios
are taken between the two trainings of a repetition, and the table shows medians.

On a busy machine, also consider the processor time per sample, which hardly depends on other load: `train ms` for the main
process in training, `data ms` for the workers. A loader of w workers with separate cores is train ms * w / data ms times
as fast as training on a single core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image

TARGET = 1.5
EMPTY = 0.2
RATE = 8000
NAME = "manifest.csv"
MODALITIES = "{image: {kind: image, channels: 1, size: [28, 28]}, sound: {kind: audio, sample_rate: 8000}, ink: timeseries}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Create missing files, measure and print."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    path = make_manifest(options.folder, rows=options.rows)
    more = [f"data.num_workers={options.workers}", *options.set]
    files = [f"data.manifest={path}", f"data.modalities={MODALITIES}"]
    if options.shards:
        shards = [f"data.shards={pack(files, options.folder / 'shards', workers=options.workers)}", "data=shards"]
        results: Any = {"files": [], "shards": []}
        for _ in range(options.repetitions):
            for name, data in (("files", files), ("shards", shards)):
                results[name].append(measure([*data, *more], epochs=options.epochs))
        compare(results["files"], results["shards"])
    else:
        results = measure([*files, *more], epochs=options.epochs)
        show(results)
    print(f"{len(os.sched_getaffinity(0))} cores, {options.threads} threads in training, {options.workers} workers")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def pack(overrides: Sequence[str], folder: Path, *, workers: int) -> Path:
    """Write the shards of the manifest unless they exist, and return their folder."""
    started = time.perf_counter()
    _run(["mode=shard", "test=false", f"shards={folder}", f"data.num_workers={workers}", *overrides], folder)
    print(f"packed in {time.perf_counter() - started:.1f} s")
    return folder


def measure(overrides: Sequence[str], *, epochs: int) -> list[dict[str, float]]:
    """Train with `experiment=manifest`; return speeds (samples/s), milliseconds per sample and megabytes of each epoch."""
    sys.modules.setdefault("manifest", sys.modules[__name__])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "epochs.jsonl"
        quiet = ["logger=none", "callbacks.figures=null", "test=false"]
        counted = ["+callbacks.alternate._target_=manifest.Alternate", f"+callbacks.alternate.path={written}"]
        _run([f"trainer.max_epochs={epochs}", *quiet, *counted, *overrides], Path(folder) / "run")
        return [json.loads(line) for line in written.read_text().splitlines()]


def _run(overrides: Sequence[str], directory: Path) -> None:
    """Run `train.py experiment=manifest` in this process."""
    from hydra import compose, initialize_config_dir

    from perceiver.run.configuration.resolvers import register_resolvers
    from perceiver.run.job import run
    from perceiver.run.main import conf_directory

    register_resolvers()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        run(compose("train", overrides=["experiment=manifest", f"run_dir={directory}", *overrides]))


class Alternate(Callback):
    """Read an epoch of data without training after every training epoch.

    Args:
        path: file for a line per epoch with the speeds of both and the memory of this process and its workers.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)
        self.started = self.ended = self.main = self.spent = 0.0
        self.seen = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self.started, self.seen, self.main = time.perf_counter(), 0, time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clocks at every batch, so that validation after the last batch is excluded."""
        self.ended, self.spent = time.perf_counter(), time.process_time() - self.main
        self.seen += batch.size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load an epoch without training, and write the figures."""
        start, seen, before = time.perf_counter(), 0, _worker_seconds()
        for batch in trainer.train_dataloader:
            seen += batch.size
        alone = seen / (time.perf_counter() - start)
        epoch = {
            "training": self.seen / (self.ended - self.started),
            "data": alone,
            "training_milliseconds": 1e3 * self.spent / self.seen,
            "data_milliseconds": 1e3 * (_worker_seconds() - before) / seen,
            "main_megabytes": _kilobytes(os.getpid()) / 2**10,
            "worker_megabytes": sum(_kilobytes(pid) for pid in _children(os.getpid())) / 2**10,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(epoch) + "\n")


def show(epochs: Sequence[dict[str, float]]) -> None:
    """Print a table, the median ratio, and the growth of memory."""
    print(f"{'epoch':>6}{'data alone, /s':>16}{'training, /s':>14}{'ratio':>8}", end="")
    print(f"{'train ms':>10}{'data ms':>9}{'main, MB':>11}{'workers, MB':>13}")
    for number, epoch in enumerate(epochs, start=1):
        ratio = epoch["data"] / epoch["training"]
        speeds = f"{epoch['data']:16,.0f}{epoch['training']:14,.0f}{ratio:8.2f}"
        seconds = f"{epoch['training_milliseconds']:10.2f}{epoch['data_milliseconds']:9.2f}"
        print(f"{number:6}{speeds}{seconds}{epoch['main_megabytes']:11,.1f}{epoch['worker_megabytes']:13,.1f}")
    later = epochs[1:] or epochs
    ratio = statistics.median(epoch["data"] / epoch["training"] for epoch in later)
    print(f"median ratio without the first epoch {ratio:.2f}{'' if ratio >= TARGET else f', below {TARGET}'}")
    settled = epochs[2:]
    if len(settled) > 1:
        for name in ("main", "worker"):
            slope = np.polyfit(range(len(settled)), [epoch[f"{name}_megabytes"] for epoch in settled], 1)[0]
            print(f"{name}: {slope:+.2f} MB per epoch over epochs 3 to {len(epochs)}")


def compare(files: Sequence[Sequence[dict[str, float]]], shards: Sequence[Sequence[dict[str, float]]]) -> None:
    """Print files against shards: medians over repetitions of medians over epochs, without the first epoch."""
    print(f"{'':8}{'data alone, /s':>16}{'training, /s':>14}{'train ms':>10}{'data ms':>9}")
    names = ("data", "training", "training_milliseconds", "data_milliseconds")
    middles = [
        [{name: statistics.median(epoch[name] for epoch in run[1:] or run) for name in names} for run in runs]
        for runs in (files, shards)
    ]
    for title, runs in zip(("files", "shards"), middles, strict=True):
        data, training, main, worker = (statistics.median(run[name] for run in runs) for name in names)
        print(f"{title:8}{data:16,.0f}{training:14,.0f}{main:10.2f}{worker:9.2f}")
    for name in ("data", "training"):
        ratios = [b[name] / a[name] for a, b in zip(*middles, strict=True)]
        print(f"{name}: shards are {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def _worker_seconds() -> float:
    """Return the processor time of this process's children so far, including those that have ended."""
    ended = os.times()
    ticks = (ended.children_user + ended.children_system) * os.sysconf("SC_CLK_TCK")
    for pid in _children(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(parent: int) -> Iterator[int]:
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for word in task.read_text().split():
            yield int(word)
            yield from _children(int(word))


def _kilobytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", text, flags=re.MULTILINE)
    except OSError:
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
    return int(found[1]) if found else 0


def make_manifest(folder: Path, *, rows: int, seed: int = 0) -> Path:
    """Return the manifest in `folder`; create it and its files if it is missing or has another number of rows."""
    path = folder / NAME
    if path.is_file() and len(path.read_text().splitlines()) == rows + 1:
        return path
    random = np.random.default_rng(seed)
    images, labels = _digits()
    sound_of = _sounds()
    by_class = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    for kind in ("image", "sound", "ink"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(rows):
        index = int(random.integers(len(images)))
        label = int(labels[index])
        keep = random.random(3) >= EMPTY
        keep[random.integers(3)] |= not keep.any()
        image, sound, ink = (f"{kind}/{number:06}.{suffix}" for kind, suffix in _SUFFIXES.items())
        Image.fromarray(images[index]).save(folder / image)
        samples, rate = sound_of(label, random)
        soundfile.write(folder / sound, samples, rate, subtype="PCM_16")
        other = int(random.choice(by_class[label]))
        (folder / ink).write_text(_ink(images[other]))
        cells = [name if kept else "" for name, kept in zip((image, sound, ink), keep, strict=True)]
        lines.append([f"r{number}", *cells, label])
        if (number + 1) % 2000 == 0:
            print(f"wrote {number + 1} of {rows} rows", flush=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "sound", "ink", "label"])
        writer.writerows(lines)
    return path


_SUFFIXES = {"image": "png", "sound": "wav", "ink": "csv"}


def _ink(image: NDArray[np.uint8]) -> str:
    """Return a CSV with a time step per row of pixels: the amount of ink and its centre."""
    ink = image.astype(float) / 255
    amount = ink.sum(axis=1)
    centre = (ink * np.arange(ink.shape[1])).sum(axis=1) / np.maximum(amount, 1e-9)
    centres = [f"{at:.2f}" if much > 0 else "" for at, much in zip(centre, amount, strict=True)]
    rows = (f"{step / 10},{much:.3f},{centres[step]}" for step, much in enumerate(amount))
    return "\n".join(["time,amount,centre", *rows]) + "\n"


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 28, 28) and their classes: MNIST if present, else scikit-learn's digits, scaled up."""
    from perceiver.data import MNIST

    root = os.environ.get("PERCEIVER_DATA")
    if root is not None and (Path(root) / "MNIST" / "raw").is_dir():
        split = MNIST(root=root, download=False).read("train")
        return split.pixels[:, 0].numpy(), split.labels.numpy()
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).astype(np.uint8)
    scaled = [np.asarray(Image.fromarray(digit).resize((28, 28), Image.Resampling.BICUBIC)) for digit in small]
    return np.stack(scaled), digits.target.astype(np.int64)


def _sounds() -> Callable[[int, np.random.Generator], tuple[NDArray[Any], int]]:
    """Return a function that draws a recording of a class: a spoken digit if present, else a tone with the class's pitch."""
    root = os.environ.get("PERCEIVER_DATA")
    folder = Path(root or "") / "free-spoken-digit-dataset" / "recordings"
    if root is not None and folder.is_dir():
        recordings = {label: [soundfile.read(file) for file in sorted(folder.glob(f"{label}_*.wav"))] for label in range(10)}
        return lambda label, random: recordings[label][int(random.integers(len(recordings[label])))]

    def tone(label: int, random: np.random.Generator) -> tuple[NDArray[Any], int]:
        seconds = np.arange(int(random.integers(2500, 5000))) / RATE
        pure = np.sin(2 * np.pi * (200 + 150 * label) * seconds)
        return 0.3 * pure + random.normal(scale=0.1, size=len(seconds)), RATE

    return tone


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the manifest and its files")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--shards", action="store_true", help="compare training from files with training from shards")
    parser.add_argument("--repetitions", type=int, default=3, help="with --shards")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings, as for train.py")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
