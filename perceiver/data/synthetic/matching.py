"""Samples of several modalities from sources of one each, put together because they are of one class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.batch import Sample

SEPARATOR = "+"
"""Between the names of its parts in the id of a matched sample."""


@dataclass(frozen=True, kw_only=True)
class ModalitySource:
    """What one modality of a split is taken from.

    Args:
        labels: `(samples,)`, classes from 0.
        read: a sample as its adapter takes it, neither augmented nor normalised, from its number.
        name: what identifies it.
        origin: what it was made of; of two sources of one origin, samples of the same number show the same thing.
    """

    labels: Int[Tensor, "samples"]
    read: Callable[[int], Tensor]
    name: Callable[[int], str]
    origin: str


class Matching:
    """Finds partners: samples of the other sources of the same class as one of the first source.

    Partners are drawn uniformly and independently. Of a source with the same origin as the first one, never the same
    number: another instance.

    Args:
        sources: by modality; samples of the first get partners of the others.

    Raises:
        ValueError: a class of the first source has no partner in another.
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
                        f"class {label}: expected at least {least} sample(s) of {name} to go with those of {self.first}, "
                        f"got {len(members[label])}; make that split larger."
                    )

    def draw(self, number: int, *, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """Numbers in all sources, in their order, for one of the first; from torch's global generator if none is given."""
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
    """Matches that stay the same: samples of the first source in random order, each as often as any other up to one.

    Args:
        matching: says which go together.
        size: how many matches.
        seed: which of the possible ones.
    """
    generator = torch.Generator().manual_seed(seed)
    available = len(matching.labels)
    rounds = [torch.randperm(available, generator=generator) for _ in range(-(-size // available))]
    return drawn_matches(matching, torch.cat(rounds)[:size], generator=generator)


def drawn_matches(
    matching: Matching, numbers: Int[Tensor, "size"], *, generator: torch.Generator
) -> Int[Tensor, "size sources"]:
    """Partners for some samples of the first source, each beside its own number."""
    return torch.tensor([matching.draw(number, generator=generator) for number in numbers.tolist()])


class MatchedSamples(Dataset[Sample]):
    """Samples of several modalities, one for each of some samples of the first source.

    Ids name the samples of all sources, in their order, joined by `SEPARATOR`, whichever modalities there are.

    Args:
        matching: from its sources samples are read.
        modalities: of the sources, those that samples have.
        numbers: `(samples,)` in the first source: partners are drawn anew whenever a sample is asked for, from torch's
            global generator. `(samples, sources)`, as `drawn_matches` gives them: these partners.
        present: which samples have which of `modalities`. None: all.
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
        """The class of each sample."""
        first = self.numbers if self.numbers.ndim == 1 else self.numbers[:, 0]
        return self.matching.sources[self.matching.first].labels[first]

    @property
    def example(self) -> int:
        """The position of a sample with as many modalities as any has."""
        return 0 if self.present is None else int(self.present.sum(dim=1).argmax())

    def take(self, index: Int[Tensor, "chosen"]) -> "MatchedSamples":
        """Some of the samples, by position."""
        return MatchedSamples(
            matching=self.matching,
            modalities=self.modalities,
            numbers=self.numbers[index],
            present=None if self.present is None else self.present[index],
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Its modalities as their sources read them."""
        stored = self.numbers[index]
        numbers = self.matching.draw(int(stored)) if stored.ndim == 0 else stored.tolist()
        of = dict(zip(self.matching.sources, numbers, strict=True))
        there = [True] * len(self.modalities) if self.present is None else self.present[index].tolist()
        sources = self.matching.sources
        return Sample(
            inputs={name: sources[name].read(of[name]) for name, has in zip(self.modalities, there, strict=True) if has},
            target=self.matching.labels[numbers[0]],
            id=SEPARATOR.join(sources[name].name(number) for name, number in of.items()),
        )
