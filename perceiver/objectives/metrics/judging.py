"""Judges of generated texts: measures that need more than the true text, such as the scene that a caption describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from perceiver.samples.grounding import Phrase


@runtime_checkable
class Judge(Protocol):
    """Judges a generated text by the true text and the places of its phrases.

    Attributes:
        measures: names of the measures.
    """

    measures: Sequence[str]

    def __call__(self, prediction: str, truth: str, grounding: Sequence[Phrase]) -> Mapping[str, tuple[float, float]]:
        """Return a value and its weight for each measure; a result is the weighted mean over a split.

        Args:
            prediction: generated text.
            truth: true text.
            grounding: phrases of the true text and their places in the inputs; empty if unknown.
        """
        ...
