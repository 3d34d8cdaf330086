"""Splits of samples, and how one is held in memory: decoded once, so that no epoch waits for files."""

from typing import Protocol, runtime_checkable

from perceiver.batch import Sample


@runtime_checkable
class Samples(Protocol):
    """A split: as much of a `torch.utils.data.Dataset` as is needed. Its tensors are neither augmented nor normalised."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """One of them."""
        ...


class InMemory:
    """All samples of a split, read when this is made."""

    def __init__(self, samples: Samples) -> None:
        self.samples = [samples[index] for index in range(len(samples))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]
