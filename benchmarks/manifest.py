"""Do files of a manifest keep up with training, and does memory stay what it was? Rows with image, sound and time series.

    python benchmarks/manifest.py FOLDER [--rows 10000] [--workers 2] [--epochs 6] [--set model.encoder.num_latents=64 …]

FOLDER gets `manifest.csv` and the files that it names, once; another call takes what is there. Images are MNIST's digits as
PNG, recordings spoken digits of the same class as WAV, from $PERCEIVER_DATA, where they are; else scikit-learn's digits and
tones. The time series, a CSV file each, say how much ink the rows of another digit of that class hold, and where it lies.
One cell in five is empty, at random, but never a whole row.

Then `experiment=manifest` trains through the code of `train.py`, in this process. After every epoch the same loader with
the same workers yields an epoch for nothing, so that both figures alternate: samples per second of training as a user sees
it, with workers busy, and of data alone. The first epoch starts workers and counts for neither. Memory is what the main
process and its workers hold after each epoch, shared pages divided among those that share them (PSS; resident memory where
the system does not say), with the slope of a straight line through all epochs but the first two.

Beside other work on the machine, look at the processor time per sample too, which hardly depends on it: `train ms` is what
the main process takes for one in training, `data ms` what the workers take. A loader of w workers with cores of their own
is train ms * w / data ms times as fast as training on one.
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
    """Make the files where they are missing, measure and print."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    path = make_manifest(options.folder, rows=options.rows)
    epochs = measure(
        [f"data.manifest={path}", f"data.modalities={MODALITIES}", f"data.num_workers={options.workers}", *options.set],
        epochs=options.epochs,
    )
    print(f"{len(os.sched_getaffinity(0))} cores, {options.threads} threads in training, {options.workers} workers")
    show(epochs)
    if options.json is not None:
        options.json.write_text(json.dumps(epochs, indent=2) + "\n")


def measure(overrides: Sequence[str], *, epochs: int) -> list[dict[str, float]]:
    """Trains with `experiment=manifest` and says of each epoch `training` and `data` (samples/s) and `megabytes`."""
    from hydra import compose, initialize_config_dir

    from perceiver.run.config import register_resolvers
    from perceiver.run.job import run
    from perceiver.run.main import conf_directory

    sys.modules.setdefault("manifest", sys.modules[__name__])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "epochs.jsonl"
        register_resolvers()
        with initialize_config_dir(str(conf_directory()), version_base="1.3"):
            quiet = ["logger=none", "callbacks.samples=null", "callbacks.attention=null", "test=false"]
            counted = ["+callbacks.alternate._target_=manifest.Alternate", f"+callbacks.alternate.path={written}"]
            mine = [f"trainer.max_epochs={epochs}", f"run_dir={folder}/run", *quiet, *counted]
            config = compose("train", overrides=["experiment=manifest", *mine, *overrides])
            run(config)
        return [json.loads(line) for line in written.read_text().splitlines()]


class Alternate(Callback):
    """After every epoch of training, one of data alone.

    Args:
        path: gets a line for each epoch: samples per second of both, and the memory of this process and its workers.
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
        """The clocks stop with the last batch, before validation."""
        self.ended, self.spent = time.perf_counter(), time.process_time() - self.main
        self.seen += batch.size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load once more, without training."""
        start, seen, before = time.perf_counter(), 0, _worker_seconds()
        for batch in trainer.train_dataloader:
            seen += batch.size
        alone = seen / (time.perf_counter() - start)
        epoch = {
            "training": self.seen / (self.ended - self.started),
            "data": alone,
            "training_milliseconds": 1e3 * self.spent / self.seen,
            "data_milliseconds": 1e3 * (_worker_seconds() - before) / seen,
            "megabytes": memory(),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(epoch) + "\n")


def show(epochs: Sequence[dict[str, float]]) -> None:
    """A table, the median ratio, and how memory grows."""
    print(f"{'epoch':>6}{'data alone, /s':>16}{'training, /s':>14}{'ratio':>8}", end="")
    print(f"{'train ms':>10}{'data ms':>9}{'memory, MB':>12}")
    for number, epoch in enumerate(epochs, start=1):
        ratio = epoch["data"] / epoch["training"]
        speeds = f"{epoch['data']:16,.0f}{epoch['training']:14,.0f}{ratio:8.2f}"
        seconds = f"{epoch['training_milliseconds']:10.2f}{epoch['data_milliseconds']:9.2f}"
        print(f"{number:6}{speeds}{seconds}{epoch['megabytes']:12,.1f}")
    later = epochs[1:] or epochs
    ratio = statistics.median(epoch["data"] / epoch["training"] for epoch in later)
    print(f"median ratio without the first epoch {ratio:.2f}{'' if ratio >= TARGET else f', below {TARGET}'}")
    settled = epochs[2:]
    if len(settled) > 1:
        slope = np.polyfit(range(len(settled)), [epoch["megabytes"] for epoch in settled], 1)[0]
        print(f"memory grows by {slope:+.2f} MB per epoch over epochs 3 to {len(epochs)}")


def memory() -> float:
    """Megabytes (2**20) that this process and its children hold."""
    return sum(_kilobytes(pid) for pid in [os.getpid(), *_children(os.getpid())]) / 2**10


def _worker_seconds() -> float:
    """Processor time of this process's children so far."""
    ticks = 0
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
    """The manifest in `folder`, with its files; made where it is not there, or has another number of rows."""
    path = folder / NAME
    if path.is_file() and sum(1 for _ in path.open()) == rows + 1:
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
        cells = [name if there else "" for name, there in zip((image, sound, ink), keep, strict=True)]
        lines.append([f"r{number}", *cells, label])
        if (number + 1) % 2000 == 0:
            print(f"made {number + 1} of {rows} rows", flush=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "sound", "ink", "label"])
        writer.writerows(lines)
    return path


_SUFFIXES = {"image": "png", "sound": "wav", "ink": "csv"}


def _ink(image: NDArray[np.uint8]) -> str:
    """Of each row of pixels, as a step in time: how much ink, and where its centre is."""
    ink = image.astype(float) / 255
    amount = ink.sum(axis=1)
    centre = (ink * np.arange(ink.shape[1])).sum(axis=1) / np.maximum(amount, 1e-9)
    centres = [f"{at:.2f}" if much > 0 else "" for at, much in zip(centre, amount, strict=True)]
    rows = (f"{step / 10},{much:.3f},{centres[step]}" for step, much in enumerate(amount))
    return "\n".join(["time,amount,centre", *rows]) + "\n"


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 28, 28) and their classes: MNIST's if they are there, else scikit-learn's, scaled up."""
    from perceiver.data import MNIST

    root = os.environ.get("PERCEIVER_DATA")
    if root is not None and (Path(root) / "MNIST" / "raw").is_dir():
        split = MNIST(root=root, download=False).files.read("train")
        return split.pixels[:, 0].numpy(), split.labels.numpy()
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).astype(np.uint8)
    scaled = [np.asarray(Image.fromarray(one).resize((28, 28), Image.Resampling.BICUBIC)) for one in small]
    return np.stack(scaled), digits.target.astype(np.int64)


def _sounds() -> Callable[[int, np.random.Generator], tuple[NDArray[Any], int]]:
    """A recording of a class, drawn at random: a spoken digit if they are there, else a tone of its own pitch."""
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
    parser.add_argument("folder", type=Path, help="for the manifest and its files")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings, as for train.py")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
