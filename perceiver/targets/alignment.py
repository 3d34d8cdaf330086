"""Alignment of a generated text: how much each word depends on each part of the inputs. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.targets.words import Word

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Alignment:
    """The decoder's attention to the inputs while it generated each word, averaged over layers, heads and the word's ids.

    Args:
        words: the W words of the text.
        maps: by modality `(W, *grid)`, on the grid of its tokens. The weights of a word over all modalities sum to 1.
        sources: words of the inputs that are texts, by modality.

    Examples:
        >>> import numpy as np
        >>> from perceiver.targets.alignment import Alignment
        >>> from perceiver.targets.words import Word
        >>> maps = {"text": np.array([[0.1, 0.2, 0.7]], np.float32)}
        >>> found = Alignment(words=(Word("Hund", 0, 1),), maps=maps, sources={"text": (Word("a", 0, 1), Word("dog", 1, 3))})
        >>> found.matrix("text").shape, found.best("text")
        ((1, 2), ['dog'])
    """

    words: tuple[Word, ...]
    maps: Mapping[str, Array]
    sources: Mapping[str, tuple[Word, ...]]

    @property
    def modalities(self) -> dict[str, Array]:
        """The share of each modality in each word, `(W,)`."""
        return {name: one.reshape(len(one), -1).sum(axis=1) for name, one in self.maps.items()}

    def matrix(self, name: str) -> Array:
        """Return the weights of the words of a modality that is a text, `(W, words)`.

        Raises:
            ValueError: if the modality is no text.
        """
        if name not in self.sources:
            raise ValueError(f"Alignment.matrix: expected a text, one of {sorted(self.sources)}, got {name!r}.")
        weights = self.maps[name]
        columns = [weights[:, word.start : word.end].sum(axis=1) for word in self.sources[name]]
        return np.stack(columns, axis=1) if columns else np.zeros((len(weights), 0), np.float32)

    def best(self, name: str) -> list[str]:
        """Return the source word with the highest weight for each word; see `matrix`."""
        if not self.sources.get(name):
            return []
        return [self.sources[name][place].text for place in self.matrix(name).argmax(axis=1).tolist()]

    def plain(self) -> dict[str, Any]:
        """Return plain values for JSON: `words`, and by modality `share`, with `words` and `weights` of a text or `map`."""
        inputs: dict[str, Any] = {}
        for name, share in self.modalities.items():
            entry: dict[str, Any] = {"share": _rounded(share)}
            if name in self.sources:
                entry["words"] = [word.text for word in self.sources[name]]
                entry["weights"] = _rounded(self.matrix(name))
            else:
                entry["map"] = _rounded(self.maps[name])
            inputs[name] = entry
        return {"words": [word.text for word in self.words], "inputs": inputs}


def alignment_of(
    words: tuple[Word, ...], maps: Mapping[str, NDArray[Any]], sources: Mapping[str, tuple[Word, ...]]
) -> Alignment:
    """Average maps of ids `(L, *grid)` over the ids of each word."""
    averaged = {
        name: np.stack([weights[word.start : word.end].mean(axis=0) for word in words]).astype(np.float32)
        if words
        else np.zeros((0, *weights.shape[1:]), np.float32)
        for name, weights in maps.items()
    }
    return Alignment(words=words, maps=averaged, sources=dict(sources))


def _rounded(values: Array) -> Any:
    return np.round(values.astype(np.float64), 5).tolist()
