"""Packing the samples of a manifest into shards with several processes; interrupted conversions can be continued."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from perceiver.data.manifest.rows import BadRowError, ManifestRows
from perceiver.data.shards.backend import litdata
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.folder import FACTS, ShardFolder, same_source, write_whole
from perceiver.data.shards.index import CONFIG, INDEX, shard_name
from perceiver.data.shards.records import encode
from perceiver.runtime.progress import progress

SHARD_BYTES = 64 * 2**20
LEAST_ROWS, SHARDS_PER_SPLIT = 256, 16
_SAMPLED = 64


def write_shards(
    splits: Mapping[str, ManifestRows],
    *,
    spec: Mapping[str, Any],
    folder: str | os.PathLike[str],
    source: Mapping[str, Any],
    num_workers: int = 0,
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
) -> ShardFolder:
    """Write the splits of a manifest to a folder of shards, or the missing shards if some exist already.

    Training samples are first put in random order: training shuffles shards and the samples within each, so that samples
    of the same shard meet in batches more often than others. A shard has about `shard_bytes`, or fewer if a split would
    otherwise have less than 16 shards of 256 samples or more.

    Args:
        splits: splits by name; empty splits are left out.
        spec: spec of the data.
        folder: output folder: new, empty, or with an unfinished conversion of the same source.
        source: description of the source in plain values; an interrupted conversion continues only if it is equal.
        num_workers: number of processes that read, decode and write.
        shard_bytes: approximate size of a shard.
        seed: seed of the order.

    Returns:
        The content of the folder, after counting every sample.

    Raises:
        BadRowError: a row cannot be decoded.
        ShardError: the folder holds other files, or the written shards are not as expected.
        ImportError: litdata is not installed.
    """
    litdata()
    folder = Path(folder)
    rows = {name: _ordered(samples, name, seed) for name, samples in splits.items()}
    wanted = ShardFolder(
        path=folder,
        spec=json.loads(json.dumps(spec)),
        samples={name: len(order) for name, order in rows.items()},
        source={**source, "seed": seed, "shard_bytes": shard_bytes, "rows": _digest(splits, rows)},
    )
    begun = _begun(wanted)
    if begun is None:
        sizes = {name: _rows_per_shard(samples, spec, shard_bytes) for name, samples in splits.items()}
        begun = replace(wanted, rows_per_shard=sizes)
        folder.mkdir(parents=True, exist_ok=True)
        begun.write()
    elif begun.complete:
        begun.check()
        return begun
    tasks = _Tasks(splits, rows, begun)
    _write_missing(tasks, num_workers=num_workers)
    for name in splits:
        if rows[name].size:
            _index(folder / name, expected=begun.samples[name])
    finished = replace(begun, complete=True)
    finished.check()
    finished.write()
    for name in splits:
        shutil.rmtree(folder / name / _PARTS, ignore_errors=True)
    return finished


_PARTS = ".parts"


def _ordered(samples: ManifestRows, name: str, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return positions in the split, in random order for training, otherwise in order."""
    count = len(samples)
    # The stream of RandomState never changes, so that later versions can continue an earlier conversion.
    return np.random.RandomState(seed).permutation(count) if name == "train" else np.arange(count)


def _digest(splits: Mapping[str, ManifestRows], rows: Mapping[str, Any]) -> str:
    """Return a digest that changes with the rows of any split."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(name.encode())
        digest.update(splits[name].rows.numpy()[rows[name]].astype("<i8").tobytes())
    return digest.hexdigest()


def _begun(wanted: ShardFolder) -> ShardFolder | None:
    """Return an earlier conversion into this folder; None if the folder is new or empty."""
    folder = wanted.path
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not folder.is_dir() or not (folder / FACTS).is_file():
        raise ShardError(f"shards: {folder} already contains other files; choose a new folder.")
    begun = ShardFolder.read(folder)
    differences = same_source(begun.source, wanted.source)
    if begun.spec != wanted.spec:
        differences.append("spec")
    if differences:
        raise ShardError(
            f"shards: {folder} holds shards of another manifest or other settings: {', '.join(differences)} differ. "
            "Choose a new folder, or remove this one."
        )
    return begun


def _rows_per_shard(samples: ManifestRows, spec: Mapping[str, Any], shard_bytes: int) -> int:
    """Estimate the samples per shard from the mean size of some records."""
    count = len(samples)
    if count == 0:
        return 0
    some = np.linspace(0, count - 1, min(count, _SAMPLED)).astype(int)
    mean = sum(len(encode(samples, int(index), target=spec["target"])) for index in some) / len(some)
    at_most = max(1, int(shard_bytes / mean))
    return min(at_most, max(LEAST_ROWS, -(-count // SHARDS_PER_SPLIT)))


class _Tasks(Dataset[tuple[str, str]]):
    """The missing shards: reading an entry writes a shard. Entries are (kind of error, message), empty on success."""

    def __init__(self, splits: Mapping[str, ManifestRows], rows: Mapping[str, Any], folder: ShardFolder) -> None:
        self.splits = dict(splits)
        self.rows = dict(rows)
        self.folder = folder
        every = [
            (name, number)
            for name, size in folder.rows_per_shard.items()
            if size
            for number in range(-(-folder.samples[name] // size))
        ]
        self.missing = [(name, number) for name, number in every if not self._part(name, number).is_file()]
        self.total = len(every)

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, index: int) -> tuple[str, str]:
        try:
            self._write(*self.missing[index])
        except BadRowError as error:
            return "row", str(error)
        except OSError as error:
            return "shard", f"shards: writing to {self.folder.path} failed: {error}."
        return "", ""

    def _part(self, name: str, number: int) -> Path:
        return self.folder.path / name / _PARTS / f"{number:06}.json"

    def _write(self, name: str, number: int) -> None:
        """Write the shard, then its part of the index, which marks it as complete."""
        size = self.folder.rows_per_shard[name]
        positions = self.rows[name][number * size : (number + 1) * size]
        part = self._part(name, number)
        part.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
            described = _write_chunk(
                (encode(self.splits[name], int(at), target=self.folder.spec["target"]) for at in positions), Path(scratch)
            )
            [chunk] = described["chunks"]
            written = Path(scratch) / chunk["filename"]
            if chunk["chunk_size"] != len(positions) or written.stat().st_size != chunk["chunk_bytes"]:
                raise ShardError(f"shards: {written} has {chunk['chunk_size']} samples, expected {len(positions)}.")
            with written.open("rb") as file:
                os.fsync(file.fileno())
            chunk["filename"] = shard_name(number)
            written.replace(part.parent.parent / chunk["filename"])
        write_whole(part, json.dumps(described).encode())


def _write_chunk(records: Any, scratch: Path) -> dict[str, Any]:
    """Write a litdata file in a scratch folder, and return its index entry."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(scratch), chunk_bytes=2**62)
    for number, record in enumerate(records):
        writer.add_item(number, record)
    writer.done()
    [index] = scratch.glob(f"*.{INDEX}")
    described: dict[str, Any] = json.loads(index.read_text())
    if differing := [key for key, value in CONFIG.items() if described["config"].get(key) != value]:
        raise ShardError(
            f"shards: this version of litdata writes an unsupported format, which differs in {', '.join(differing)}."
        )
    described["config"] = {**CONFIG, "chunk_bytes": SHARD_BYTES}
    return described


def _write_missing(tasks: _Tasks, *, num_workers: int) -> None:
    loader: DataLoader[Any] = DataLoader(
        tasks, batch_size=None, num_workers=min(num_workers, len(tasks)), collate_fn=_unchanged
    )
    done = tasks.total - len(tasks)
    for kind, message in progress(loader, total=tasks.total, title=f"shards in {tasks.folder.path}", start=done):
        if message:
            raise (BadRowError(message) if kind == "row" else ShardError(message))


def _unchanged(entry: Any) -> Any:
    return entry


def _index(folder: Path, *, expected: int) -> None:
    """Write the index of a split from its parts, after counting samples."""
    parts = [json.loads(part.read_text()) for part in sorted((folder / _PARTS).glob("*.json"))]
    chunks = [chunk for part in parts for chunk in part["chunks"]]
    counted = sum(chunk["chunk_size"] for chunk in chunks)
    if counted != expected:
        raise ShardError(f"shards: {folder} has {counted} samples, expected {expected}; remove the folder and start again.")
    configs: Sequence[dict[str, Any]] = [part["config"] for part in parts]
    write_whole(folder / INDEX, json.dumps({"chunks": chunks, "config": configs[0], "updated_at": "0"}).encode())
