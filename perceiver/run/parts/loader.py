"""Batches of the parts that a process computes: each within one part, so that they do not depend on the processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from perceiver.run.parts.folder import PartFolder
from perceiver.samples.batch import Batch


@dataclass(frozen=True)
class Place:
    """Place of a batch in the table.

    Args:
        part: number of its part.
        first: row number of its first sample.
    """

    part: int
    first: int


class PartLoader:
    """Loads batches as a given loader does, part by part.

    Args:
        like: loader of the whole table, in order, with random access.
        folder: the table.
        parts: the parts to load.

    Attributes:
        places: places of the batches that were loaded, oldest first; the user removes them.

    Raises:
        ValueError: the loader has no random access, or no fixed batch size.
    """

    def __init__(self, like: DataLoader[Any], folder: PartFolder, parts: Iterable[int]) -> None:
        self.like = like
        self.folder = folder
        self.parts = parts
        self.places: deque[Place] = deque()

    def __iter__(self) -> Iterator[Batch]:
        like = self.like
        # Lightning would replace the sampler of a DataLoader that it gets; this object is none.
        yield from DataLoader(
            like.dataset,
            batch_sampler=_Indices(self._indices),
            num_workers=like.num_workers,
            collate_fn=like.collate_fn,
            pin_memory=like.pin_memory,
            timeout=like.timeout,
        )

    def _indices(self) -> Iterator[list[int]]:
        for part in self.parts:
            rows = self.folder.span(part)
            for first in range(rows.start, rows.stop, self.like.batch_size or 1):
                self.places.append(Place(part, first))
                yield list(range(first, min(first + (self.like.batch_size or 1), rows.stop)))


class _Indices:
    """A batch sampler of unknown length."""

    def __init__(self, make: Callable[[], Iterator[list[int]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[int]]:
        return self._make()


def rows_of(loader: Any) -> int:
    """Return the number of samples of a loader whose samples have numbers.

    Raises:
        ValueError: it is no such loader.
    """
    dataset = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset) or loader.batch_size is None:
        raise ValueError(
            "rows_per_part: expected data whose samples have positions, as those of a DataLoader with a batch size and a "
            f"data set with __len__ and __getitem__; got {type(loader).__name__} of {type(dataset).__name__}."
        )
    return len(loader.dataset)  # type: ignore[arg-type]


def samples_at(loader: DataLoader[Any], row: int) -> Batch:
    """Return the batch of one row, to look at."""
    dataset: Any = loader.dataset
    read = dataset.__getitems__([row]) if hasattr(dataset, "__getitems__") else [dataset[row]]
    batch: Batch = loader.collate_fn(read)
    return batch
