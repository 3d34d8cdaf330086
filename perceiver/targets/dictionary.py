"""A dictionary learned from pairs of texts: words that occur together, to measure alignment with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perceiver.targets.words import Word

LEAST_COUNT, LEAST_DICE = 20, 0.5


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Words of a text modality, and their translations.

    Args:
        modality: name of the modality.
        translations: target word by source word, in lower case.
    """

    modality: str
    translations: Mapping[str, str]

    @classmethod
    def of(cls, entry: Mapping[str, Any] | None) -> Dictionary | None:
        """Make the dictionary of a spec's entry `target.dictionary`; None without such an entry."""
        return None if not entry else cls(modality=str(entry["modality"]), translations=dict(entry["pairs"]))

    def occurrences(self, source: Iterable[Word], target: Iterable[Word]) -> list[tuple[Word, Word]]:
        """Return the dictionary's pairs in two texts, of words that occur only once in theirs: no pair is ambiguous."""
        ours, theirs = _once(source), _once(target)
        return [
            (word, theirs[self.translations[text]]) for text, word in ours.items() if self.translations.get(text) in theirs
        ]


def learn_pairs(
    texts: Iterable[tuple[Iterable[str], Iterable[str]]], *, least_count: int = LEAST_COUNT, least_dice: float = LEAST_DICE
) -> list[list[str]]:
    """Return word pairs that are each other's best by Dice's coefficient, 2 c(s, t) / (c(s) + c(t)), most frequent first.

    c counts the pairs of texts with a word, in lower case. Numbers and punctuation are left out.

    Args:
        texts: words of each source and target text of the training split.
        least_count: least c(s, t).
        least_dice: least coefficient.

    Examples:
        >>> from perceiver.targets.dictionary import learn_pairs
        >>> texts = [("a dog".split(), "ein Hund".split()), ("a cat".split(), "eine Katze".split())]
        >>> learn_pairs(texts, least_count=1, least_dice=0.9)
        [['cat', 'katze'], ['dog', 'hund']]
    """
    ours, theirs, both = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for source, target in texts:
        left, right = _set(source), _set(target)
        ours.update(left)
        theirs.update(right)
        both.update((one, other) for one in left for other in right)
    found = {pair: 2 * count / (ours[pair[0]] + theirs[pair[1]]) for pair, count in both.items() if count >= least_count}
    best_left: dict[str, tuple[float, str]] = {}
    best_right: dict[str, tuple[float, str]] = {}
    for (one, other), dice in found.items():
        best_left[one] = max(best_left.get(one, (0.0, "")), (dice, other))
        best_right[other] = max(best_right.get(other, (0.0, "")), (dice, one))
    pairs = [(one, other) for one, (dice, other) in best_left.items() if dice >= least_dice and best_right[other][1] == one]
    return [[one, other] for one, other in sorted(pairs, key=lambda pair: (-both[pair], pair))]


def _set(words: Iterable[str]) -> set[str]:
    return {lower for word in words if (lower := word.lower()).isalpha()}


def _once(words: Iterable[Word]) -> dict[str, Word]:
    found: dict[str, list[Word]] = {}
    for word in words:
        found.setdefault(word.text.lower(), []).append(word)
    return {text: places[0] for text, places in found.items() if len(places) == 1}
