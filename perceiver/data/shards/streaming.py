"""Reading shards: training streams from them in random order, evaluation takes them one by one."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from perceiver.batch import Batch, Sample
from perceiver.data.shards.backend import litdata
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.index import read_index
from perceiver.data.shards.records import Decode


class ShardStream:
    """Training samples, shuffled anew in every epoch.

    Shards are shuffled and dealt out to processes and their workers, then the samples of each. In one process an epoch has
    every sample once. With several, all have equally many batches, all full: what is left of the samples after as many
    batches as all processes have together, is left out of that epoch, other samples in each.

    Args:
        folder: of the split.
        decode: from a record to a sample.
        seed: of the order; the same in all processes.
    """

    def __init__(self, folder: Path, *, decode: Decode, seed: int) -> None:
        self.folder = folder
        self.decode = decode
        self.seed = seed

    def loader(self, *, collate: Callable[[Any], Batch], batch_size: int, num_workers: int) -> DataLoader[Sample]:
        """Batches; its `state_dict` says where an epoch was left.

        Args:
            collate: from samples to a batch.
            batch_size: samples per batch and process.
            num_workers: loader processes.

        Raises:
            ShardError: there are fewer samples than processes need for a batch each.
        """
        module = litdata()
        # Processes are known here: Lightning makes loaders when it has started them.
        dataset = _dataset(module, self.folder, shuffle=True, seed=self.seed, transform=self.decode)
        loader = module.StreamingDataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # Workers that stay would not learn of a position that is loaded.
            persistent_workers=False,
        )
        if len(loader) == 0:
            raise ShardError(
                f"data.shards: {self.folder} has fewer samples than a batch of {batch_size} for each process; lower "
                "data.batch_size."
            )
        return loader  # type: ignore[no-any-return]


def _dataset(module: Any, folder: Path, *, shuffle: bool, seed: int, transform: Callable[[bytes], Any] | None) -> Any:
    read_index(folder)
    from litdata.streaming.resolver import Dir

    dataset = module.StreamingDataset(
        # A text might be taken for a template, or the address of something that is not on this machine.
        Dir(path=str(folder.resolve())),
        shuffle=shuffle,
        seed=seed,
        transform=transform,
        # All samples of a shard in any order, not blocks of neighbours.
        item_shuffle_window=0,
        batch_decode=0,
    )
    if dataset.posix_fast is not None and dataset.posix_fast.window_shuffle:
        # On network file systems litdata would deal out whole shards only, and cut off what one worker has more than others.
        dataset.posix_fast = dataclasses.replace(dataset.posix_fast, kind="posix")
    return dataset


class ShardSamples(Dataset[Sample]):
    """The samples of a split by position, in the order in which they were written.

    Args:
        folder: of the split.
        count: how many there are.
        decode: from a record to a sample.
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
        """One of them. Errors as in `Decode`."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        if self._process != os.getpid():
            # Files that are open are no good in a process that was forked off.
            self._records = _dataset(litdata(), self.folder, shuffle=False, seed=0, transform=None)
            self._process = os.getpid()
        return self.decode(self._records[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_process": -1}
