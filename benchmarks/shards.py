"""Reading samples from shards against reading them from files: processor time on a core, without and with workers.

    python benchmarks/shards.py FOLDER [--rows 2000] [--repetitions 7] [--workers 2]

The first call writes the manifest of benchmarks/manifest.py (images, recordings, time series; a fifth of the cells empty)
and its shards to FOLDER. In the same process, epochs of decoded and collated batches from files and from shards alternate,
ratios are taken within each repetition, and the medians are printed. Processor time hardly depends on other load, or on the
disk, whose pages are cached after the first epoch; shards gain more on a slow disk. Loader processes of shards are
restarted in every epoch, those of files persist. The last line gives the cost of restarting, and the number of samples per
epoch above which shards are still cheaper.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from manifest import make_manifest

from perceiver.data import DataModule, Manifest
from perceiver.data.shards import Shards, write_shards

BATCH = 32
MODALITIES: dict[str, Any] = {
    "image": {"kind": "image", "channels": 1, "size": [28, 28]},
    "sound": {"kind": "audio", "sample_rate": 8000},
    "ink": "timeseries",
}


def epoch(loader: Any) -> tuple[float, int]:
    """Return processor seconds of this process for all batches, and their number of samples."""
    start = time.process_time()
    samples = sum(batch.size for batch in loader)
    return time.process_time() - start, samples


def started_workers(loader: Any) -> float:
    """Return processor seconds of the loader processes for an epoch, from their start to their end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in loader:
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = make_manifest(options.folder, rows=options.rows)
    files = DataModule.of(Manifest, manifest=path, batch_size=BATCH, num_workers=0, modalities=MODALITIES)
    files.prepare_data()
    files.setup("fit")
    files.setup("test")
    folder = options.folder / "shards"
    splits = {name: files.split(name) for name in ("train", "val", "test")}
    write_shards(splits, spec=files.spec, folder=folder, source={"manifest": str(path)}, num_workers=0)
    alone, with_workers = (
        DataModule.of(Shards, shards=folder, batch_size=BATCH, num_workers=workers) for workers in (0, options.workers)
    )
    loaders = {"files": files.train_dataloader(), "shards": alone.train_dataloader()}
    for loader in loaders.values():  # one-time work
        epoch(loader)
    seconds: dict[str, list[float]] = {"files": [], "shards": []}
    samples = 1
    for _ in range(options.repetitions):
        for name, loader in loaders.items():
            taken, samples = epoch(loader)
            seconds[name].append(taken / samples)
    ratios = [slow / fast for slow, fast in zip(seconds["files"], seconds["shards"], strict=True)]
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{samples} training samples in batches of {BATCH}, {options.repetitions} repetitions, one core")
    print("  ".join(f"{name} {1e6 * value:,.0f} us per sample" for name, value in middle.items()))
    print(f"shards are {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")
    loader = with_workers.train_dataloader()
    started = statistics.median(started_workers(loader) for _ in range(3)) - samples * middle["shards"]
    gained = middle["files"] - middle["shards"]
    worth = f"cheaper above {max(0.0, started) / gained:,.0f} samples" if gained > 0 else "never cheaper"
    print(f"starting {options.workers} workers takes {1e3 * started:.0f} ms in every epoch: {worth}")


if __name__ == "__main__":
    main()
