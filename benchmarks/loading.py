"""Throughput of loading image files through loader processes, against that of training with the MNIST recipe on them.

    python benchmarks/loading.py [--workers 2] [--format png jpeg] [--images 4000] [--threads 2] [--repetitions 5]

Images of 32 x 32 pixels are written to a temporary folder, a folder per class, and read by `data=image_folder` with its
augmentation: decode, augment, normalise, transfer to the main process. The first epoch starts the workers and is not
counted. Training is optimizer steps of experiment=mnist's model on a batch in memory, so nothing is loaded at the same time.
Both alternate, ratios are taken within each repetition, and the table shows medians. At a ratio of 1.5 or more, training
never waits for data as long as the workers have separate cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor

from perceiver.checkpoints.build import build_model
from perceiver.data import DataModule
from perceiver.model import Perceiver
from perceiver.run.assembly.data import make_data
from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.run.main import conf_directory
from perceiver.samples.batch import Batch
from perceiver.training.optimizer import parameter_groups

TARGET = 1.5
SIZE, CLASSES = 32, 10


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    # Torch warns if there are fewer cores than workers; the table shows both numbers.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    print(f"{len(os.sched_getaffinity(0))} cores, {arguments.threads} threads in training, {arguments.workers} workers")
    print(f"{'format':8}{'data, samples/s':>18}{'training, samples/s':>22}{'ratio':>8}")
    for name in arguments.format:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count=arguments.images, suffix=name)
            loading, training = measure(Path(folder), workers=arguments.workers, repetitions=arguments.repetitions)
        ratio = statistics.median(fast / slow for fast, slow in zip(loading, training, strict=True))
        verdict = "" if ratio >= TARGET else f"  below {TARGET}"
        print(f"{name:8}{statistics.median(loading):18,.0f}{statistics.median(training):22,.0f}{ratio:8.2f}{verdict}")


def write_images(root: Path, *, count: int, suffix: str) -> None:
    """Write smooth random images, which compress about as well as photographs."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / "train" / f"class {number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (SIZE // 4, SIZE // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number}.{suffix}")


def measure(root: Path, *, workers: int, repetitions: int) -> tuple[list[float], list[float]]:
    """Return samples per second of loading (an epoch) and of training (steps for a second), measured in turn."""
    register_resolvers()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        overrides = ["experiment=mnist", "data=image_folder", f"data.root={root}", f"data.size=[{SIZE},{SIZE}]"]
        config = compose("train", overrides=[*overrides, f"data.num_workers={workers}", "test=false", "run_dir=nowhere"])
        data = make_data(config.data)
        assert isinstance(data, DataModule)
        data.prepare_data()
        data.setup("fit")
        plain = resolve(config, data.spec)
    model = build_model(plain["model"], spec=data.spec)
    optimizer = instantiate(plain["optimizer"], _convert_="all")(parameter_groups(model))
    loader = data.train_dataloader()
    batch = next(iter(loader))
    for _ in loader:  # starts the workers, which persist
        pass
    step(model, optimizer, batch)

    loading, training = [], []
    for _ in range(repetitions):
        start, seen = time.perf_counter(), 0
        for loaded in loader:
            seen += loaded.size
        loading.append(seen / (time.perf_counter() - start))
        start, seen = time.perf_counter(), 0
        while seen == 0 or time.perf_counter() - start < 1.0:
            step(model, optimizer, batch)
            seen += batch.size
        training.append(seen / (time.perf_counter() - start))
    return loading, training


def step(model: Perceiver, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Take an optimizer step."""
    target = batch.target
    assert isinstance(target, Tensor)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(batch.inputs, batch.masks), target).backward()
    optimizer.step()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", nargs="+", default=["png", "jpeg"], choices=["png", "jpeg"])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
