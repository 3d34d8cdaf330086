"""Splits: their protocols, splits in memory, and subsets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.samples.batch import Batch, Sample


@runtime_checkable
class Samples(Protocol):
    """A split: the required part of `torch.utils.data.Dataset`. Its tensors are neither augmented nor normalised.

    If the target is a class, a split has `labels`, the class of each sample, known without reading it. If reading many
    samples at once is faster, it has `__getitems__(indices) -> Batch`, which gets all indices of a batch.
    """

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Return a sample. A training split may draw from the global generators; other splits are deterministic."""
        ...


@runtime_checkable
class Stream(Protocol):
    """A training split without random access: it makes its own loader, reshuffled in every epoch."""

    def loader(self, *, collate: Callable[[Any], Batch], batch_size: int, num_workers: int) -> DataLoader[Sample]:
        """Return a loader of batches; its `state_dict` is the position in the epoch."""
        ...


class BatchedSamples(ABC):
    """A split that makes whole batches; a single sample is a batch of one."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; see `Samples`. IndexError for an index out of range."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return only_sample(self.__getitems__([index]))


def only_sample(batch: Batch) -> Sample:
    """Return the sample of a batch of one; its inputs omit missing modalities."""
    inputs = {
        name: x for name, x in batch.inputs_of(0).items() if name not in batch.masks or bool(batch.masks[name][0].any())
    }
    target, valid, groundings = batch.target, batch.target_mask, batch.groundings
    return Sample(
        inputs=inputs,
        target=None if target is None else int(target[0]) if target.ndim == 1 else target[0],
        id=batch.ids[0],
        target_mask=None if valid is None else valid[0],
        grounding=None if groundings is None else groundings[0],
    )


class InMemory:
    """All samples of a split, read on construction.

    Args:
        samples: a split, or a list of samples.

    Raises:
        ValueError: a sample has no class; the message names it.
    """

    def __init__(self, samples: Samples | Sequence[Sample]) -> None:
        self.samples = [samples[index] for index in range(len(samples))]
        self.labels = [_label(sample) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class Subset:
    """Some samples of a split, read individually.

    Args:
        samples: the whole split.
        index: positions of the samples in this subset.
    """

    def __init__(self, samples: Any, index: Int[Tensor, "chosen"]) -> None:
        self.samples = samples
        self.index: list[int] = index.tolist()

    @property
    def labels(self) -> list[int]:
        """The class of each sample, from 0."""
        labels = self.samples.labels
        return [int(labels[number]) for number in self.index]

    @property
    def lengths(self) -> list[Any]:
        """The length or lengths of each sample, if the split has any."""
        lengths = self.samples.lengths
        return [lengths[number] for number in self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.samples[self.index[index]]
        return sample


def subset(samples: Any, index: Int[Tensor, "chosen"]) -> Any:
    """Return the samples of a split at these positions, by its method `take` if it has that."""
    take = getattr(samples, "take", None)
    return Subset(samples, index) if take is None else take(index)


def _label(sample: Sample) -> int:
    if sample.target is None:
        raise ValueError(f"sample {sample.id!r}: expected a class number as its target, got None.")
    return int(sample.target)
