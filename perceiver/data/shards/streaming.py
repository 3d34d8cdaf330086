"""Reading shards: a stream in random order for training, samples by position for evaluation."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from perceiver.data.loading.shared_memory import waiting
from perceiver.data.shards.backend import litdata
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.index import read_index
from perceiver.data.shards.records import Decode
from perceiver.samples.batch import Batch, Sample


class ShardStream:
    """Training samples, reshuffled in every epoch.

    Shards are shuffled and distributed to processes and their workers, then samples are shuffled within each shard. With a
    single process, an epoch has every sample once. With several processes, all have equally many full batches: the
    remaining samples are left out of the epoch, different samples in each.

    Args:
        folder: folder of the split.
        decode: decodes a record to a sample.
        seed: seed of the order, the same in all processes.
    """

    def __init__(self, folder: Path, *, decode: Decode, seed: int) -> None:
        self.folder = folder
        self.decode = decode
        self.seed = seed

    def loader(self, *, collate: Callable[[Any], Batch], batch_size: int, num_workers: int) -> DataLoader[Sample]:
        """Return a loader of batches; its `state_dict` is the position in the epoch.

        Args:
            collate: turns a list of samples into a batch.
            batch_size: samples per batch and process.
            num_workers: loader processes.

        Raises:
            ShardError: there are too few samples for a batch per process.
        """
        module = litdata()
        # The number of processes is known here: Lightning makes loaders after starting them.
        dataset = _dataset(module, self.folder, shuffle=True, seed=self.seed, transform=self.decode)
        loader = module.StreamingDataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate,
            timeout=waiting(num_workers),
            pin_memory=torch.cuda.is_available(),
            # Persistent workers would not get a loaded position.
            persistent_workers=False,
        )
        if len(loader) == 0:
            raise ShardError(
                f"data.shards: {self.folder} has too few samples for a batch of {batch_size} in each process; reduce "
                "data.batch_size."
            )
        return loader  # type: ignore[no-any-return]


def _dataset(module: Any, folder: Path, *, shuffle: bool, seed: int, transform: Callable[[bytes], Any] | None) -> Any:
    read_index(folder)
    from litdata.streaming.resolver import Dir

    dataset = module.StreamingDataset(
        # litdata could interpret a string as a template or a remote address.
        Dir(path=str(folder.resolve())),
        shuffle=shuffle,
        seed=seed,
        transform=transform,
        # Shuffle all samples of a shard, not blocks of neighbours.
        item_shuffle_window=0,
        batch_decode=0,
    )
    if dataset.posix_fast is not None and dataset.posix_fast.window_shuffle:
        # On network file systems, litdata would distribute whole shards only, and drop the surplus samples of a worker.
        dataset.posix_fast = dataclasses.replace(dataset.posix_fast, kind="posix")
    return dataset


class ShardSamples(Dataset[Sample]):
    """The samples of a split by position, in the order in which they were written.

    Args:
        folder: folder of the split.
        count: number of samples.
        decode: decodes a record to a sample.
    """

    def __init__(self, folder: Path, *, count: int, decode: Decode) -> None:
        litdata()
        self.folder = folder
        self.count = count
        self.decode = decode
        self._records: Any = None
        self._process = -1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Return a sample. Errors as in `Decode`."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        if self._process != os.getpid():
            # Open files must not be shared with a forked process.
            self._records = _dataset(litdata(), self.folder, shuffle=False, seed=0, transform=None)
            self._process = os.getpid()
        return self.decode(self._records[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_process": -1}
