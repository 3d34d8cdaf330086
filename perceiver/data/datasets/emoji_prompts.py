"""Emoji from their names, with compositions of names that are held out: "woman astronaut", "green heart"."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perceiver.data.datasets.emoji import SIDE, EmojiSet, read_emoji
from perceiver.data.loading.images import image_spec, measured_normalisation
from perceiver.data.loading.samples import BatchedSamples
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.prompts.images import drawn
from perceiver.data.synthetic.prompts.texts import TEXT_SPEC, text_batch
from perceiver.samples.batch import Batch

VARIANTS = (
    "man", "woman", "person",
    "red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white",
)  # fmt: skip
"""First words of names that are combined with the same rest: "man astronaut" and "woman astronaut"."""


def compositions(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the names "variant rest", by rest, for each rest that has several variants.

    Examples:
        >>> from perceiver.data.datasets.emoji_prompts import compositions
        >>> compositions(["man artist", "red heart", "woman artist", "black cat", "green heart"])
        {'artist': [0, 2], 'heart': [1, 4]}
    """
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        first, _, rest = name.partition(" ")
        if rest and first in VARIANTS:
            found.setdefault(rest, []).append(number)
    return {rest: numbers for rest, numbers in found.items() if len(numbers) > 1}


@dataclass(frozen=True, kw_only=True)
class PromptedEmoji(BatchedSamples):
    """A split of emoji with their names.

    Args:
        pictures: `(emoji, 3, size, size)` uint8.
        names: by language, a name for each emoji.
        numbers: number of each sample's emoji.
        ids: prefix of the ids.
        draw: draw the language of a name at every access, from torch's global random state; False: the first.
    """

    pictures: Tensor
    names: Sequence[Sequence[str]]
    numbers: Sequence[int]
    ids: str
    draw: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""
        numbers = [self.numbers[index] for index in indices]
        own = [[names[number] for names in self.names] for number in numbers]
        ids, mask = text_batch([drawn(choices, generator=None) if self.draw else choices[0] for choices in own])
        target = torch.tensor(numbers)
        return Batch(
            inputs={"image": self.pictures[target] / 255, "text": ids},
            masks={} if mask is None else {"text": mask},
            target=target,
            ids=[f"{self.ids}/{index}/{number}" for index, number in zip(indices, numbers, strict=True)],
        )


class EmojiPrompts(Source):
    """Pictures of emoji by one hand, `inputs["image"]` `(B, 3, size, size)`, and their names, `inputs["text"]` `(B, L)`.

    Of each composition of names, such as "man astronaut", "woman astronaut" and "person astronaut", one is held out of
    training; its first word and its rest occur in others. A quarter of the held-out emoji are for validation, the rest for
    test. The target is the number of the emoji, in the order of the files.

    Args:
        root: folder with `names.tsv` and the pictures; see `perceiver.data.Emoji`.
        hand: hand of the pictures, noto or twemoji.
        languages: languages of the names; training draws one at every access, evaluation takes the first.
        size: height and width, at most 64.
        repeats: number of times that an emoji occurs in validation and test, for several samples of each prompt.
        split_seed: seed of the held-out emoji; not the training seed.

    Raises:
        FileNotFoundError: files are absent.
        ValueError: for an unknown hand or language, or a size out of range.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        hand: str = "noto",
        languages: Sequence[str] = ("en",),
        size: int = 32,
        repeats: int = 4,
        split_seed: int = 0,
    ) -> None:
        if not 1 <= size <= SIDE or SIDE % size:
            raise ValueError(f"data.size: expected a divisor of {SIDE}, got {size}.")
        if repeats < 1:
            raise ValueError(f"data.repeats: expected 1 or more, got {repeats}.")
        if not languages:
            raise ValueError("data.languages: expected one language or more, got none.")
        super().__init__(specs={**image_spec((3, size, size)), "text": TEXT_SPEC}, split_seed=split_seed)
        self.root = root
        self.hand = hand
        self.languages = tuple(languages)
        self.size = size
        self.repeats = repeats
        self._read: EmojiSet | None = None

    def prepare(self) -> None:
        """Check that all files exist."""
        self.content()

    def read_training(self) -> tuple[PromptedEmoji, PromptedEmoji]:
        """Return the emoji that are not held out, and those for validation."""
        training, validation, _ = self.split()
        return self._samples(training, "train", draw=True), self._samples(validation * self.repeats, "val")

    def read_test(self) -> PromptedEmoji:
        """Return the held-out emoji of the test."""
        return self._samples(self.split()[2] * self.repeats, "test")

    def unaltered(self, training: PromptedEmoji) -> PromptedEmoji:
        """Return training samples with the first language."""
        return self._samples(list(training.numbers), "train")

    def split(self) -> tuple[list[int], list[int], list[int]]:
        """Return the numbers of the emoji for training, validation and test."""
        content = self.content()
        generator = torch.Generator().manual_seed(self.split_seed)
        groups = compositions(content.names["en"])
        held_out = [
            numbers[int(torch.randint(len(numbers), (), generator=generator))] for _, numbers in sorted(groups.items())
        ]
        order = [held_out[place] for place in torch.randperm(len(held_out), generator=generator).tolist()]
        count = len(order) // 4
        training = sorted(set(range(len(content.emoji))) - set(held_out))
        return training, sorted(order[:count]), sorted(order[count:])

    def learn(self, training: PromptedEmoji) -> dict[str, Any]:
        """Return the spec: pictures normalised by the colours of the training pictures."""
        seen = training.pictures[torch.tensor(sorted(set(training.numbers)))]
        colours = measured_normalisation([seen], value_range=(0, 255))
        image = {**self.specs["image"], **colours}
        return {"modalities": {**self.specs, "image": image}, "target": {}}

    def known(self) -> dict[str, Any]:
        """See `Source.known`; the target is no class that a model predicts."""
        return {"modalities": self.specs, "target": {}}

    def content(self) -> EmojiSet:
        """Return all emoji, read once, in the stored size."""
        if self._read is None:
            found = read_emoji(self.root, hands=[self.hand])
            if unknown := sorted({*self.languages, "en"} - set(found.names)):
                raise ValueError(f"data.languages: expected some of {', '.join(found.names)}, got {', '.join(unknown)}.")
            self._read = found
        return self._read

    def _samples(self, numbers: Sequence[int], split: str, *, draw: bool = False) -> PromptedEmoji:
        content = self.content()
        return PromptedEmoji(
            pictures=smaller(content.pictures[self.hand], self.size),
            names=[content.names[language] for language in self.languages],
            numbers=numbers,
            ids=f"emoji_prompts/{split}",
            draw=draw,
        )


def smaller(pictures: Tensor, size: int) -> Tensor:
    """Return pictures `(…, 64, 64)` uint8 as means over squares, `(…, size, size)`."""
    factor = pictures.shape[-1] // size
    squares = pictures.unflatten(-1, (size, factor)).unflatten(-3, (size, factor))
    means: Tensor = squares.float().mean(dim=(-3, -1))
    return means.round().to(torch.uint8)
