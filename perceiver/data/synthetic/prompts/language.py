"""The language of prompts: write a prompt, and parse what it asks for.

    one digit      "seven", "a seven", "the digit 7", "one more than six", …: `WORDINGS`
    and its place  "a small seven at the top left": sizes and places of a larger canvas
    two digits     "a three left of a small seven"

Some prompts are held out: no training sample has them. They show whether a model composes what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from perceiver.data.synthetic.captions.language import DIGITS, RELATIONS, SIZES

WORDINGS = {
    "word": "{word}",
    "article": "{article} {word}",
    "digit": "the digit {word}",
    "number": "the number {word}",
    "drawing": "a drawing of {article} {word}",
    "handwritten": "a handwritten {word}",
    "numeral": "{numeral}",
    "digit_numeral": "the digit {numeral}",
    "one_more": "one more than {before}",
    "one_less": "one less than {after}",
}
"""Wordings of prompts of one digit, by name."""

HELD_OUT: Mapping[str, tuple[int, ...]] = {
    "numeral": (1, 4, 7),
    "one_more": (2, 5, 7),
    "one_less": (3, 6),
    "number": (0, 8, 9),
}
"""Digits that a wording is never used with in training. Every digit is seen in other wordings."""

PLACES = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the middle", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
"""Places of one digit: the thirds of the canvas, row by row."""

PLACED, PAIR = "placed", "pair"
"""Names of the wordings with a place, and of two digits."""

_DIGIT = "|".join(DIGITS)
_SIZE = "|".join(SIZES)
_PLACED = re.compile(rf"an? (?:({_SIZE}) )?({_DIGIT}) ({'|'.join(PLACES)})")
_PAIR = re.compile(rf"an? (?:({_SIZE}) )?({_DIGIT}) ({'|'.join(RELATIONS)}) an? (?:({_SIZE}) )?({_DIGIT})")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a prompt asks for.

    Args:
        digits: one digit, or two in the order of the prompt.
        sizes: for each digit, its place in `SIZES`; None if the prompt names no size.
        place: place of a single digit, in `PLACES`; None if the prompt names none.
        relation: relation of the first digit to the second, in `RELATIONS`; None for a single digit.
        wording: name of the wording.
    """

    digits: tuple[int, ...]
    sizes: tuple[int | None, ...] = (None,)
    place: int | None = None
    relation: int | None = None
    wording: str = "word"

    @property
    def held_out(self) -> bool:
        """Whether no training sample has this wording with these digits."""
        if len(self.digits) == 2:
            return is_held_out_pair(*self.digits)
        return self.digits[0] in HELD_OUT.get(self.wording, ())

    @property
    def text(self) -> str:
        """The prompt.

        Examples:
            >>> from perceiver.data.synthetic.prompts.language import Request
            >>> Request(digits=(7,), wording="one_more").text
            'one more than six'
            >>> Request(digits=(3, 8), sizes=(None, 0), relation=0, wording="pair").text
            'a three left of a small eight'
        """
        if self.wording in WORDINGS:
            return _texts()[self.wording, self.digits[0]]
        named = [_named(digit, size) for digit, size in zip(self.digits, self.sizes, strict=True)]
        if self.place is not None:
            return f"{named[0]} {PLACES[self.place]}"
        assert self.relation is not None
        return f"{named[0]} {RELATIONS[self.relation]} {named[1]}"


def parse(text: str) -> Request | None:
    """Return what a prompt asks for; None if the text is no prompt.

    Examples:
        >>> from perceiver.data.synthetic.prompts.language import parse
        >>> parse("one more than six").digits
        (7,)
        >>> asked = parse("a small two above a nine")
        >>> asked.digits, asked.sizes, asked.relation
        ((2, 9), (0, None), 2)
    """
    if (found := _requests().get(text)) is not None:
        return found
    if (placed := _PLACED.fullmatch(text)) is not None:
        size, digit, place = placed.groups()
        return Request(digits=(DIGITS.index(digit),), sizes=(_size(size),), place=PLACES.index(place), wording=PLACED)
    if (pair := _PAIR.fullmatch(text)) is not None:
        size, digit, relation, other_size, other = pair.groups()
        return Request(
            digits=(DIGITS.index(digit), DIGITS.index(other)),
            sizes=(_size(size), _size(other_size)),
            relation=RELATIONS.index(relation),
            wording=PAIR,
        )
    return None


def wordings_of(digit: int, *, held_out: bool) -> list[str]:
    """Return the names of the wordings of a digit that are held out of training, or those that are not."""
    return [name for name, own in _texts() if own == digit and (digit in HELD_OUT.get(name, ())) == held_out]


def is_held_out_pair(first: int, second: int) -> bool:
    """Return whether no training sample shows these two digits together: five of the 55 pairs.

    Every digit is in one of them, and is seen beside all others.
    """
    return (first + second) % 10 == 7


def _named(digit: int, size: int | None) -> str:
    return f"{_article(digit)} {DIGITS[digit]}" if size is None else f"a {SIZES[size]} {DIGITS[digit]}"


def _article(digit: int) -> str:
    return "an" if DIGITS[digit] == "eight" else "a"


def _size(word: str | None) -> int | None:
    return None if word is None else SIZES.index(word)


@cache
def _texts() -> dict[tuple[str, int], str]:
    """Return the prompt of each wording and digit; the neighbours of zero and nine lack one."""
    found = {}
    for name, template in WORDINGS.items():
        for digit, word in enumerate(DIGITS):
            if (name == "one_more" and digit == 0) or (name == "one_less" and digit == 9):
                continue
            found[name, digit] = template.format(
                word=word,
                article=_article(digit),
                numeral=digit,
                before=DIGITS[digit - 1],
                after=DIGITS[(digit + 1) % 10],
            )
    return found


@cache
def _requests() -> dict[str, Request]:
    return {text: Request(digits=(digit,), wording=name) for (name, digit), text in _texts().items()}
