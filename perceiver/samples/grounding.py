"""Grounding: which parts of a target text name something in the inputs, and where it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A part of a text that names something in the inputs, and its place there.

    Args:
        start, end: the part is `text[start:end]`.
        modality: modality that shows it.
        box: (first, one past the last) element along each axis of the modality's raw grid: rows and columns of an image,
            samples of a sound, or ids of a text.

    Examples:
        >>> from perceiver.samples.grounding import Phrase
        >>> phrase = Phrase(start=8, end=13, modality="image", box=((10, 30), (4, 18)))
        >>> "a large seven"[phrase.start : phrase.end]
        'seven'
    """

    start: int
    end: int
    modality: str
    box: tuple[tuple[float, float], ...]
