"""Splits of samples, and how one is held in memory: decoded once, so that no epoch waits for files."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from perceiver.batch import Sample


@runtime_checkable
class Samples(Protocol):
    """A split: as much of a `torch.utils.data.Dataset` as is needed. Its tensors are neither augmented nor normalised."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of each sample, from 0, known without reading it."""
        ...

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """One of them."""
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


def _label(sample: Sample) -> int:
    if sample.target is None:
        raise ValueError(f"sample {sample.id!r}: expected a class number as its target, got None.")
    return int(sample.target)
