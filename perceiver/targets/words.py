"""Words of a text that a tokenizer has cut into pieces: where each begins and ends. Without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# A word with hyphens and apostrophes inside, or other visible characters, such as punctuation.
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]+")


@dataclass(frozen=True)
class Word:
    """A word, and its places in the ids of its text.

    Args:
        text: the word.
        start: place of its first id.
        end: place after its last id.
    """

    text: str
    start: int
    end: int


def words_in(text: str) -> list[str]:
    """Return the words of a text in order."""
    return _WORD.findall(text)


def words_of(pieces: Sequence[bytes]) -> list[Word]:
    """Return the words of a text in order; an id belongs to every word that has one of its bytes.

    Args:
        pieces: bytes of each id, from `Tokenizer.pieces`.

    Examples:
        >>> from perceiver.targets.words import words_of
        >>> [(word.text, word.start, word.end) for word in words_of([b"a", b" T", b"-Sh", b"irt", b"."])]
        [('a', 0, 1), ('T-Shirt', 1, 4), ('.', 4, 5)]
    """
    # Bytes that are not UTF-8 keep their number.
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    starts = [0, *accumulate(len(character.encode("utf-8", errors="surrogateescape")) for character in text)]
    owners = [place for place, piece in enumerate(pieces) for _ in piece]
    return [
        Word(_printable(match[0]), owners[starts[match.start()]], owners[starts[match.end()] - 1] + 1)
        for match in _WORD.finditer(text)
    ]


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
