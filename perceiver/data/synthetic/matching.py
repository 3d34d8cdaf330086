"""Samples of several modalities, matched by class from sources of a single modality."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.samples.batch import Sample

SEPARATOR = "+"
"""Separates the names of the parts in the id of a matched sample."""


@dataclass(frozen=True, kw_only=True)
class ModalitySource:
    """Source of one modality of a split.

    Args:
        labels: class numbers from 0, `(samples,)`.
        read: returns a sample by number, in the adapter's layout, neither augmented nor normalised.
        name: returns the name of a sample by number.
        origin: origin of the source; in two sources of the same origin, samples of the same number show the same object.
    """

    labels: Int[Tensor, "samples"]
    read: Callable[[int], Tensor]
    name: Callable[[int], str]
    origin: str


class Matching:
    """Match samples of the first source with partners of the same class from the other sources.

    Partners are drawn uniformly and independently. In a source with the same origin as the first source, the partner never
    has the same number, so it is another instance.

    Args:
        sources: sources by modality; samples of the first source get partners from the others.

    Raises:
        ValueError: if a class of the first source has no partner in another source.
    """

    def __init__(self, sources: Mapping[str, ModalitySource]) -> None:
        self.sources = dict(sources)
        self.first, *self.others = self.sources
        labels = self.sources[self.first].labels
        self.labels: list[int] = labels.tolist()
        num_classes = 1 + max(int(source.labels.max()) for source in self.sources.values())
        self.members = {
            name: [(self.sources[name].labels == label).nonzero()[:, 0].tolist() for label in range(num_classes)]
            for name in self.others
        }
        for name, members in self.members.items():
            least = 2 if self._same_origin(name) else 1
            for label in labels.unique().tolist():
                if len(members[label]) < least:
                    raise ValueError(
                        f"class {label}: expected at least {least} sample(s) of {name} to match with {self.first}, "
                        f"got {len(members[label])}; make that split larger."
                    )

    def draw(self, number: int, *, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """Draw partners for a sample of the first source: numbers in all sources. Uses torch's global generator if None."""
        numbers = [number]
        for name in self.others:
            members = self.members[name][self.labels[number]]
            choice = _choose(members, generator)
            while choice == number and self._same_origin(name):
                choice = _choose(members, generator)
            numbers.append(choice)
        return tuple(numbers)

    def _same_origin(self, name: str) -> bool:
        return self.sources[name].origin == self.sources[self.first].origin


def _choose(members: Sequence[int], generator: torch.Generator | None) -> int:
    return members[int(torch.randint(len(members), (), generator=generator))]


def evaluation_matches(matching: Matching, *, size: int, seed: int) -> Int[Tensor, "size sources"]:
    """Draw fixed matches for samples of the first source in random order, all equally often (up to one).

    Args:
        matching: draws partners.
        size: number of matches.
        seed: seed of the matches.
    """
    generator = torch.Generator().manual_seed(seed)
    available = len(matching.labels)
    rounds = [torch.randperm(available, generator=generator) for _ in range(-(-size // available))]
    return drawn_matches(matching, torch.cat(rounds)[:size], generator=generator)


def drawn_matches(
    matching: Matching, numbers: Int[Tensor, "size"], *, generator: torch.Generator
) -> Int[Tensor, "size sources"]:
    """Draw partners for samples of the first source; each row starts with the sample's own number."""
    return torch.tensor([matching.draw(number, generator=generator) for number in numbers.tolist()])


class MatchedSamples(Dataset[Sample]):
    """Samples of several modalities, one per chosen sample of the first source.

    Ids join the names from all sources, in order, with `SEPARATOR`, whichever modalities are present.

    Args:
        matching: matching with the sources.
        modalities: modalities of the samples, a subset of the sources.
        numbers: `(samples,)` numbers in the first source: new partners at every access, from torch's global generator.
            `(samples, sources)`, from `drawn_matches`: fixed partners.
        present: presence of `modalities` in each sample. None: all present.
    """

    def __init__(
        self,
        *,
        matching: Matching,
        modalities: Sequence[str],
        numbers: Int[Tensor, "samples *sources"],
        present: Bool[Tensor, "samples modalities"] | None = None,
    ) -> None:
        self.matching = matching
        self.modalities = tuple(modalities)
        self.numbers = numbers
        self.present = present

    @property
    def labels(self) -> Int[Tensor, "samples"]:
        """Return the class of each sample."""
        first = self.numbers if self.numbers.ndim == 1 else self.numbers[:, 0]
        return self.matching.sources[self.matching.first].labels[first]

    @property
    def example(self) -> int:
        """Return the position of a sample with the largest number of modalities."""
        return 0 if self.present is None else int(self.present.sum(dim=1).argmax())

    def take(self, index: Int[Tensor, "chosen"]) -> "MatchedSamples":
        """Return a subset of the samples, by position."""
        return MatchedSamples(
            matching=self.matching,
            modalities=self.modalities,
            numbers=self.numbers[index],
            present=None if self.present is None else self.present[index],
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Return the present modalities, as read by their sources."""
        stored = self.numbers[index]
        numbers = self.matching.draw(int(stored)) if stored.ndim == 0 else stored.tolist()
        of = dict(zip(self.matching.sources, numbers, strict=True))
        present = [True] * len(self.modalities) if self.present is None else self.present[index].tolist()
        sources = self.matching.sources
        return Sample(
            inputs={name: sources[name].read(of[name]) for name, has in zip(self.modalities, present, strict=True) if has},
            target=self.matching.labels[numbers[0]],
            id=SEPARATOR.join(sources[name].name(number) for name, number in of.items()),
        )
