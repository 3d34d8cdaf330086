"""Emoji drawn by two hands, Noto and Twemoji, with their names in 14 languages.

Pictures: Noto Color Emoji (Google, Apache-2.0) and Twemoji (Twitter and contributors, CC-BY 4.0); names: Unicode CLDR,
through the package emoji. `examples/emoji/rebuild.py` makes the files; docs/guides/retrieval.md has the card of the data.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.data.loading.images import measured_normalisation
from perceiver.data.loading.source import Source
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.samples.batch import Sample

HANDS = ("noto", "twemoji")
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "ja", "zh", "ko", "fa", "id", "ru", "tr", "ar")
SIDE = 64
"""Height and width of the stored pictures."""
AGAIN = "_again"
"""Ends the name of the modality with a second view of a hand's picture."""


@dataclass(frozen=True, kw_only=True)
class EmojiSet:
    """All emoji, in the order of the files.

    Args:
        emoji: the characters.
        pictures: by hand, `(emoji, 3, 64, 64)` uint8, on white.
        names: by language, a name for each emoji.
    """

    emoji: list[str]
    pictures: dict[str, Tensor]
    names: dict[str, list[str]]


def read_emoji(root: str | os.PathLike[str], *, hands: Sequence[str] = HANDS) -> EmojiSet:
    """Read `names.tsv` and `{hand}64.npz` in a folder.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or the files have different numbers of emoji.
    """
    folder = Path(root)
    for name in ("names.tsv", *(f"{hand}{SIDE}.npz" for hand in hands)):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"data.root: expected the file {name} in {folder.resolve()}. Set data.root or the environment variable "
                "PERCEIVER_DATA to the folder that holds emoji, or make the files with examples/emoji/rebuild.py."
            )
    emoji, names = _read_names(folder / "names.tsv")
    pictures = {hand: _read_pictures(folder / f"{hand}{SIDE}.npz", count=len(emoji)) for hand in hands}
    return EmojiSet(emoji=emoji, pictures=pictures, names=names)


def _read_names(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    if header[0] != "emoji" or len(header) < 2 or not rows:
        raise ValueError(f"{path}: expected a header emoji, en, de, … separated by tabs, and rows; got {header[:4]}.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(row):
            raise ValueError(f"{path}, line {number}: expected {len(header)} cells with text, got {row}.")
    columns = list(zip(*rows, strict=True))
    return list(columns[0]), {language: list(column) for language, column in zip(header[1:], columns[1:], strict=True)}


def _read_pictures(path: Path, *, count: int) -> Tensor:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with archive:
            assert archive.zip is not None
            info = archive.zip.getinfo("images.npy")
            most = count * SIDE * SIDE * 3 + 1000  # with the header
            if info.file_size > most:
                raise ValueError(f"it holds {info.file_size:,} bytes, more than {most:,}")
            pictures = archive["images"]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected an archive of NumPy with the array images: {error}.") from error
    if pictures.shape != (count, SIDE, SIDE, 3) or pictures.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected images of shape {(count, SIDE, SIDE, 3)} and type uint8, one for each row of names.tsv, got "
            f"{pictures.shape} and {pictures.dtype}."
        )
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


class Emoji(Source):
    """Pictures of emoji by one or two hands and their names, split so that tested pairs of pictures are never seen.

    The emoji are divided into folds. Those of the tested fold, and `validation_size` others, are held out. A training sample
    of any other emoji has all modalities. Of a held-out emoji, training sees at most the pictures of each hand apart, in
    different samples, with the names beside the first hand (with a single hand, names are apart, too). A training sample
    with the picture of one hand alone has a second view of it, which augmentation changes in another way: a modality such as
    `noto_again`, for pairs of two views.

    In validation and test, the queries are the held-out emoji of the split, whose samples have all modalities. All others
    are there as candidates: a sample for each of their modalities, alone. So a query is searched among all emoji.

    Batches hold `inputs[hand]` `(B, 3, size, size)`, and `inputs[name]` `(B, L)`, UTF-8 bytes. There is no target.

    Args:
        root: folder with `names.tsv`, `noto64.npz` and `twemoji64.npz`.
        hands: hands of the pictures, the first with the names: noto, twemoji.
        names: languages by the name of a modality. Of several, training draws one for each sample, and evaluation takes
            the first. None: no names.
        size: height and width of the pictures, at most 64.
        max_length: most bytes of a name; longer ones are cut.
        second_views: whether there are second views.
        held_out: how training sees held-out emoji: `apart`, as above, or `unseen`, not at all.
        fold: number of the tested fold, from 0.
        num_folds: number of folds.
        validation_size: number of emoji of the other folds that are held out for validation.
        split_seed: seed of the folds; not the training seed.

    Raises:
        FileNotFoundError: files are absent.
        ValueError: for unknown hands or languages, names of modalities that collide, or sizes out of range.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        hands: Sequence[str] = HANDS,
        names: Mapping[str, Sequence[str]] | None = None,
        size: int = 32,
        max_length: int = 64,
        second_views: bool = True,
        held_out: Literal["apart", "unseen"] = "apart",
        fold: int = 0,
        num_folds: int = 5,
        validation_size: int = 92,
        split_seed: int = 0,
    ) -> None:
        languages = {name: tuple(chosen) for name, chosen in (names or {}).items()}
        _check_modalities(hands, languages)
        if not 1 <= size <= SIDE:
            raise ValueError(f"data.size: expected 1 to {SIDE}, got {size}.")
        if max_length < 1:
            raise ValueError(f"data.max_length: expected 1 or more, got {max_length}.")
        if held_out not in ("apart", "unseen"):
            raise ValueError(f"data.held_out: expected apart or unseen, got {held_out!r}.")
        if not 0 <= fold < num_folds or num_folds < 2:
            raise ValueError(f"data.fold: expected two folds or more, and one of them, got {fold} of {num_folds}.")
        self.hands = tuple(hands)
        self.languages = languages
        self.again = tuple(f"{hand}{AGAIN}" for hand in hands) if second_views else ()
        picture: dict[str, Any] = {"kind": "image", "shape": [3, size, size], "range": [0, 255]}
        text: dict[str, Any] = {
            "kind": "text",
            "shape": [None],
            "vocabulary_size": VOCABULARY_SIZE,
            "max_length": max_length,
        }
        specs: dict[str, dict[str, Any]] = {
            **dict.fromkeys((*self.hands, *self.again), picture),
            **dict.fromkeys(languages, text),
        }
        super().__init__(specs=specs, split_seed=split_seed)
        self.root = Path(root)
        self.size = size
        self.max_length = max_length
        self.held_out = held_out
        self.tested_fold = fold
        self.num_folds = num_folds
        self.validation_size = validation_size
        self._read: EmojiSet | None = None

    def prepare(self) -> None:
        """Check that all files exist."""
        self._content()

    def read_training(self) -> tuple[EmojiSamples, EmojiSamples]:
        """Return the training samples, and validation queries with all candidates."""
        training, validation, test = self.split()
        samples = [(number, self._all) for number in training]
        if self.held_out == "apart":
            samples += [(number, group) for number in sorted(validation + test) for group in self._apart()]
        return self._samples(samples, draw=True), self._queries(validation)

    def read_test(self) -> EmojiSamples:
        """Return the queries of the tested fold, with all candidates."""
        return self._queries(self.split()[2])

    def read_prediction(self) -> EmojiSamples:
        """Return all emoji in the order of the files, with all modalities."""
        return self._samples([(number, self._all) for number in range(len(self._content().emoji))])

    def split(self) -> tuple[list[int], list[int], list[int]]:
        """Return the numbers of the emoji for training, validation and test, ascending."""
        count = len(self._content().emoji)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed)).tolist()
        test = order[self.tested_fold :: self.num_folds]
        rest = [number for number in order if number not in set(test)]
        if not 1 <= self.validation_size < len(rest) or not test:
            raise ValueError(
                f"data.validation_size: expected 1 to {len(rest) - 1} emoji of the {len(rest)} outside the tested fold, got "
                f"{self.validation_size}."
            )
        return sorted(rest[self.validation_size :]), sorted(rest[: self.validation_size]), sorted(test)

    def learn(self, training: EmojiSamples) -> dict[str, Any]:
        """Return the spec; all pictures are normalised by the colours of both hands, so that they may share an adapter."""
        seen = torch.tensor(sorted({number for number, _ in training.samples}))
        chunks = [whole[seen] for whole in training.pictures.values()]
        colours = measured_normalisation(chunks, value_range=(0, 255))
        pictures = {*self.hands, *self.again}
        return {"modalities": {name: {**own, **(colours if name in pictures else {})} for name, own in self.specs.items()}}

    def known(self) -> dict[str, Any]:
        """See `Source.known`; there is no target."""
        return {"modalities": self.specs, "target": {}}

    @property
    def _all(self) -> tuple[str, ...]:
        return (*self.hands, *self.languages)

    def _apart(self) -> list[tuple[str, ...]]:
        """Return the modalities of each sample of a held-out emoji."""
        groups: list[tuple[str, ...]] = [(hand, f"{hand}{AGAIN}") if self.again else (hand,) for hand in self.hands]
        names = tuple(self.languages)
        if len(groups) == 1:
            return [*groups, names] if names else groups
        return [(*groups[0], *names), *groups[1:]]

    def _queries(self, numbers: Sequence[int]) -> EmojiSamples:
        asked = set(numbers)
        others = [number for number in range(len(self._content().emoji)) if number not in asked]
        candidates: list[tuple[int, tuple[str, ...]]] = [(number, (name,)) for name in self._all for number in others]
        return self._samples([(number, self._all) for number in numbers] + candidates)

    def _samples(self, samples: list[tuple[int, tuple[str, ...]]], *, draw: bool = False) -> EmojiSamples:
        return EmojiSamples(
            content=self._content(), samples=samples, languages=self.languages, max_length=self.max_length, draw=draw
        )

    def _content(self) -> EmojiSet:
        if self._read is None:
            found = read_emoji(self.root, hands=self.hands)
            if unknown := sorted({one for chosen in self.languages.values() for one in chosen} - set(found.names)):
                raise ValueError(f"data.names: expected languages of names.tsv, {', '.join(found.names)}, got {unknown}.")
            pictures = {hand: _resized(whole, self.size) for hand, whole in found.pictures.items()}
            self._read = EmojiSet(emoji=found.emoji, pictures=pictures, names=found.names)
        return self._read


class EmojiSamples:
    """A split: emoji with some of their modalities.

    Args:
        content: the emoji, with pictures of the final size.
        samples: for each sample the number of the emoji and the modalities.
        languages: languages by modality.
        max_length: most bytes of a name.
        draw: draw the language of every name from torch's global generator; otherwise the first.
    """

    def __init__(
        self,
        *,
        content: EmojiSet,
        samples: list[tuple[int, tuple[str, ...]]],
        languages: Mapping[str, tuple[str, ...]],
        max_length: int,
        draw: bool,
    ) -> None:
        self.content = content
        self.samples = samples
        self.languages = languages
        self.max_length = max_length
        self.draw = draw

    @property
    def pictures(self) -> dict[str, Tensor]:
        """All pictures by hand, `(emoji, 3, size, size)` uint8."""
        return self.content.pictures

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; the id of one with a single modality ends with its name."""
        number, modalities = self.samples[index]
        code = "-".join(f"{ord(character):x}" for character in self.content.emoji[number])
        alone = f"/{modalities[0]}" if len(modalities) == 1 else ""
        return Sample(inputs={name: self._read(number, name) for name in modalities}, id=f"emoji/{code}{alone}")

    def _read(self, number: int, modality: str) -> Tensor:
        if modality not in self.languages:
            return self.pictures[modality.removesuffix(AGAIN)][number].float() / 255
        languages = self.languages[modality]
        choice = int(torch.randint(len(languages), ())) if self.draw and len(languages) > 1 else 0
        return encode_bytes(self.content.names[languages[choice]][number])[: self.max_length]


def _check_modalities(hands: Sequence[str], languages: Mapping[str, Sequence[str]]) -> None:
    if not hands or len(set(hands)) < len(hands) or not set(hands) <= set(HANDS):
        raise ValueError(f"data.hands: expected one or more of {', '.join(HANDS)}, each once, got {list(hands)}.")
    taken = {*HANDS, *(f"{hand}{AGAIN}" for hand in HANDS)}
    for name, chosen in languages.items():
        if name in taken or not name.isidentifier():
            raise ValueError(f"data.names: expected a name for a modality besides {sorted(taken)}, got {name!r}.")
        if not chosen:
            raise ValueError(f"data.names.{name}: expected one or more languages, such as [en], got none.")


def _resized(pictures: Tensor, size: int) -> Tensor:
    """Return pictures `(emoji, 3, size, size)` uint8, by means over areas."""
    if size == pictures.shape[-1]:
        return pictures
    parts = [F.adaptive_avg_pool2d(part.float(), size).round().to(torch.uint8) for part in pictures.split(256)]
    return torch.cat(parts)
