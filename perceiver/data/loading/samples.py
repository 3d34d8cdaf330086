"""Splits: what they must be able to do, and how they are held in memory or made of others."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.batch import Batch, Sample


@runtime_checkable
class Samples(Protocol):
    """A split: as much of a `torch.utils.data.Dataset` as is needed. Its tensors are neither augmented nor normalised.

    Where the target is a class, a split has `labels`, the class of each sample, known without reading it. Where reading
    many samples at once is faster, it has `__getitems__(indices) -> Batch`, which then gets all indices of a batch.
    """

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """One of them. A training split may draw from the global generators; others have the same content every time."""
        ...


@runtime_checkable
class Stream(Protocol):
    """A training split whose samples have no position: it loads itself, shuffled anew in every epoch."""

    def loader(self, *, collate: Callable[[Any], Batch], batch_size: int, num_workers: int) -> DataLoader[Sample]:
        """Batches; the `state_dict` of the loader is the place where an epoch was left."""
        ...


class InMemory:
    """All samples of a split, read when this is made.

    Args:
        samples: a split, or a list of samples.

    Raises:
        ValueError: a sample without a class; names it.
    """

    def __init__(self, samples: Samples | Sequence[Sample]) -> None:
        self.samples = [samples[index] for index in range(len(samples))]
        self.labels = [_label(sample) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class Subset:
    """Some samples of a split, one by one.

    Args:
        samples: all of them.
        index: positions of those that there are.
    """

    def __init__(self, samples: Any, index: Int[Tensor, "chosen"]) -> None:
        self.samples = samples
        self.index: list[int] = index.tolist()

    @property
    def labels(self) -> list[int]:
        """The class of each sample, from 0."""
        labels = self.samples.labels
        return [int(labels[number]) for number in self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.samples[self.index[index]]
        return sample


def subset(samples: Any, index: Int[Tensor, "chosen"]) -> Any:
    """Some samples of a split, by position; a split that has `take` chooses itself."""
    take = getattr(samples, "take", None)
    return Subset(samples, index) if take is None else take(index)


def _label(sample: Sample) -> int:
    if sample.target is None:
        raise ValueError(f"sample {sample.id!r}: expected a class number as its target, got None.")
    return int(sample.target)
