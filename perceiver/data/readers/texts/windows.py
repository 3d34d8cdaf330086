"""Documents in windows of bounded size, and their split into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perceiver.modalities.texts.text_bytes import encode_bytes
from perceiver.samples.batch import Sample

_WHITE_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A coherent text.

    Args:
        name: id of the document.
        text: text of the document.
    """

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a document.

    Args:
        name: name of the document.
        start: offset in the document, in bytes of UTF-8.
        raw: bytes of this part.
    """

    name: str
    start: int
    raw: bytes


class TextWindows:
    """Samples of text, as the required part of `torch.utils.data.Dataset`.

    Args:
        stretches: the windows; ids of samples are `<document>@<first byte>`.
        modality: key in `Sample.inputs`.
    """

    def __init__(self, stretches: Sequence[Stretch], *, modality: str) -> None:
        self.stretches = list(stretches)
        self.modality = modality

    def __len__(self) -> int:
        return len(self.stretches)

    def __getitem__(self, index: int) -> Sample:
        one = self.stretches[index]
        return Sample(inputs={self.modality: encode_bytes(one.raw.decode())}, id=f"{one.name}@{one.start}")

    def text(self) -> list[str]:
        """Return the text of all windows."""
        return [one.raw.decode() for one in self.stretches]


def windows(stretch: Stretch, *, size: int, at_lines: bool = False) -> list[Stretch]:
    """Cut a stretch into windows of at most `size` bytes; windows that are all white space are dropped.

    Each window ends after white space (with `at_lines`, after a line end) if its second half has any; otherwise after a
    word or, in a longer word, after a character.
    """
    pieces: list[Stretch] = []
    start = 0
    while start < len(stretch.raw):
        end = start + _cut(stretch.raw[start : start + size + 1], size, at_lines=at_lines)
        raw = stretch.raw[start:end]
        if raw.strip():
            pieces.append(Stretch(name=stretch.name, start=stretch.start + start, raw=raw))
        start = end
    return pieces


def _cut(raw: bytes, size: int, *, at_lines: bool) -> int:
    """Return how many bytes of `raw` to take; `raw` may have an extra byte that does not fit."""
    if len(raw) <= size:
        return len(raw)
    marks = (b"\n", _WHITE_SPACE) if at_lines else (_WHITE_SPACE,)
    for mark in marks:
        last = max(raw.rfind(bytes([byte]), size // 2, size) for byte in mark)
        if last >= 0:
            return last + 1
    # Cut within a word but not within a character, whose continuation bytes are 0b10……….
    end = size
    while end > 1 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return end


def distinct(documents: Sequence[Document]) -> list[Document]:
    """Return the documents without repeated texts, because a text must not be in two splits."""
    first: dict[str, Document] = {}
    for one in documents:
        first.setdefault(one.text, one)
    return list(first.values())


def split_by_document(
    documents: Sequence[Document], *, validation_fraction: float, test_fraction: float, seed: int
) -> tuple[list[Stretch], list[Stretch], list[Stretch]]:
    """Split whole documents into training, validation and test by approximate shares of bytes, keeping their order.

    The test split depends on `test_fraction` and `seed` only.

    Raises:
        ValueError: fewer than three documents.
    """
    if len(documents) < 3:
        raise ValueError(
            f"data.split_by: there {'is' if len(documents) == 1 else 'are'} {len(documents)} "
            f"{'document' if len(documents) == 1 else 'different documents'}, but each split needs at least one. Set "
            "data.split_by=stretch to cut documents into three parts, or provide more files."
        )
    sizes = [len(one.text.encode()) for one in documents]
    # NumPy guarantees the stream of RandomState permanently.
    order = np.random.RandomState(seed).permutation(len(documents)).tolist()
    test, rest = _taken(order, sizes, test_fraction * sum(sizes), leave=2)
    validation, training = _taken(rest, sizes, validation_fraction * sum(sizes), leave=1)
    first, second, third = (
        [Stretch(name=documents[number].name, start=0, raw=documents[number].text.encode()) for number in sorted(numbers)]
        for numbers in (training, validation, test)
    )
    return first, second, third


def _taken(order: Sequence[int], sizes: Sequence[int], wanted: float, *, leave: int) -> tuple[list[int], list[int]]:
    """Split `order` into a first part of about `wanted` bytes, at least one item, and a rest of at least `leave` items."""
    count, total = 1, sizes[order[0]]
    while count < len(order) - leave and total + sizes[order[count]] / 2 < wanted:
        total += sizes[order[count]]
        count += 1
    return list(order[:count]), list(order[count:])


def split_by_stretch(
    documents: Sequence[Document], *, validation_fraction: float, test_fraction: float
) -> tuple[list[Stretch], list[Stretch], list[Stretch]]:
    """Split each document into three contiguous parts: training, then validation, then test."""
    splits: tuple[list[Stretch], list[Stretch], list[Stretch]] = ([], [], [])
    for one in documents:
        raw = one.text.encode()
        test = _line_near(raw, round(len(raw) * (1 - test_fraction)))
        validation = _line_near(raw, round(len(raw) * (1 - test_fraction - validation_fraction)))
        cuts = [0, min(validation, test), test, len(raw)]
        for split, start, end in zip(splits, cuts[:-1], cuts[1:], strict=True):
            if raw[start:end].strip():
                split.append(Stretch(name=one.name, start=start, raw=raw[start:end]))
    return splits


def _line_near(raw: bytes, place: int) -> int:
    """Return the position after the last line end before `place`, if near; else after white space or before a character."""
    near = raw[max(0, place - 1000) : place]
    start = place - len(near)
    for mark in (b"\n", b" "):
        last = near.rfind(mark)
        if last >= 0:
            return start + last + 1
    while 0 < place < len(raw) and raw[place] & 0xC0 == 0x80:
        place -= 1
    return place
