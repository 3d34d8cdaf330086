"""A language for scenes of digits: write a caption, parse it, and decide whether it is true of a scene.

    caption  = object [relation object [relation object]]
    object   = "a" ("large" | "small") digit
    relation = "left of" | "right of" | "above" | "below"

A relation holds between the objects before and after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
MARGIN = 3.0
"""Pixels by which centres must differ for a relation to hold."""

LONGEST = 3 * len("a large seven") + 2 * len(" right of ")
"""Letters of the longest caption."""

_OBJECT = rf"a ({'|'.join(SIZES)}) ({'|'.join(DIGITS)})"
_RELATION = rf"({'|'.join(RELATIONS)})"
_CAPTION = re.compile(rf"{_OBJECT}(?: {_RELATION} {_OBJECT}(?: {_RELATION} {_OBJECT})?)?")


@dataclass(frozen=True, kw_only=True)
class DrawnDigit:
    """A digit in a scene.

    Args:
        digit: 0 to 9.
        large: whether it is large.
        box: (first, one past the last) row, and the same of columns, in pixels.
    """

    digit: int
    large: bool
    box: tuple[tuple[float, float], tuple[float, float]]

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle of the box."""
        (top, bottom), (left, right) = self.box
        return (top + bottom) / 2, (left + right) / 2


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a caption states.

    Args:
        objects: `(digit, large)` of each object, in order.
        relations: relations between neighbouring objects.
    """

    objects: tuple[tuple[int, bool], ...]
    relations: tuple[str, ...]


def relation(first: tuple[float, float], second: tuple[float, float]) -> str:
    """Return the relation of the first centre (row, column) to the second, along the axis where they differ more."""
    down, right = second[0] - first[0], second[1] - first[1]
    if abs(right) >= abs(down):
        return "left of" if right > 0 else "right of"
    return "above" if down > 0 else "below"


def describe(scene: Sequence[DrawnDigit]) -> str:
    """Return the caption of one to three digits, which names them in their order.

    Examples:
        >>> from perceiver.data.synthetic.captions.language import DrawnDigit, describe
        >>> seven = DrawnDigit(digit=7, large=True, box=((5, 25), (2, 18)))
        >>> three = DrawnDigit(digit=3, large=False, box=((8, 21), (30, 40)))
        >>> describe([seven, three])
        'a large seven left of a small three'
    """
    words = []
    for number, one in enumerate(scene):
        if number:
            words.append(relation(scene[number - 1].centre, one.centre))
        words.append(f"a {SIZES[one.large]} {DIGITS[one.digit]}")
    return " ".join(words)


def parse(text: str) -> Caption | None:
    """Return what a text states; None if it is no caption."""
    found = _CAPTION.fullmatch(text)
    if found is None:
        return None
    groups = [group for group in found.groups() if group is not None]
    # Size and digit of the first object, then relation, size and digit of each further one.
    objects = [(groups[place], groups[place + 1]) for place in range(0, len(groups), 3)]
    return Caption(
        objects=tuple((DIGITS.index(digit), size == "large") for size, digit in objects),
        relations=tuple(groups[2::3]),
    )


def is_true(text: str, scene: Sequence[DrawnDigit]) -> bool:
    """Return whether a text is a caption and everything it states is true of the scene; it may leave out objects.

    Relations hold if the centres differ by more than `MARGIN` pixels in their direction, whatever the other axis.
    """
    caption = parse(text)
    if caption is None:
        return False
    return any(_holds(caption, chosen) for chosen in permutations(scene, len(caption.objects)))


def _holds(caption: Caption, chosen: Sequence[DrawnDigit]) -> bool:
    if any((one.digit, one.large) != stated for one, stated in zip(chosen, caption.objects, strict=True)):
        return False
    pairs = zip(chosen[:-1], chosen[1:], caption.relations, strict=True)
    return all(_differs(first.centre, second.centre, stated) > MARGIN for first, second, stated in pairs)


def _differs(first: tuple[float, float], second: tuple[float, float], stated: str) -> float:
    """Return by how many pixels the centres differ in the direction of the relation."""
    down, right = second[0] - first[0], second[1] - first[1]
    return {"left of": right, "right of": -right, "above": down, "below": -down}[stated]


def digit_words(text: str) -> Iterator[tuple[int, int, int]]:
    """Return each digit word of a text: its digit, and the positions of its first letter and after its last."""
    for found in re.finditer("|".join(DIGITS), text):
        yield DIGITS.index(found.group()), found.start(), found.end()
