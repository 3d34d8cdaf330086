"""Effects of generation settings on the scores of the next id, in NumPy; the rules of `perceiver.decoders.decoding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.targets.decoding_settings import DecodingSettings

Array = NDArray[Any]

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, kw_only=True)
class Decoding(DecodingSettings):
    """How to choose the next id, in NumPy; arguments as `perceiver.targets.decoding_settings.DecodingSettings`."""

    def scores(self, scores: Array, ids: Array, *, end_id: int) -> Array:
        """Return scores of the next ids `(rows, V)` after all rules.

        Args:
            scores: scores of the next id, `(rows, V)`.
            ids: ids so far, `(rows, L)`.
            end_id: id that ends a sequence.
        """
        scores = scores.astype(np.float32)
        if self.repetition_penalty != 1:
            seen, penalty = np.take_along_axis(scores, ids, axis=1), np.float32(self.repetition_penalty)
            np.put_along_axis(scores, ids, np.where(seen < 0, seen * penalty, seen / penalty), axis=1)
        if self.no_repeat_ngram_size:
            scores = _without_repeats(scores, ids, self.no_repeat_ngram_size)
        if ids.shape[1] < self.min_length:
            scores[:, end_id] = _NEVER
        return self._drawn(scores) if self.do_sample else scores

    def _drawn(self, scores: Array) -> Array:
        scores = scores / np.float32(self.temperature)
        if self.top_k is not None:
            least = np.take_along_axis(scores, top(scores, min(self.top_k, scores.shape[-1]))[:, -1:], axis=1)
            scores = np.where(scores < least, _NEVER, scores)
        if self.top_p < 1:
            places = scores.argsort(axis=-1, kind="stable")
            shares = np.exp(log_softmax(np.take_along_axis(scores, places, axis=1)))
            removed = shares.cumsum(axis=-1) <= 1 - self.top_p
            removed[:, -1] = False
            unsorted = np.empty_like(removed)
            np.put_along_axis(unsorted, places, removed, axis=1)
            scores = np.where(unsorted, _NEVER, scores)
        if self.min_p is not None:
            shares = np.exp(log_softmax(scores))
            scores = np.where(shares < self.min_p * shares.max(axis=-1, keepdims=True), _NEVER, scores)
        return scores


def log_softmax(x: Array) -> Array:
    """Logarithm of the softmax over the last axis, float32."""
    shifted = x.astype(np.float32) - x.max(axis=-1, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def top(x: Array, count: int) -> Array:
    """Return the places of the `count` largest values along the last axis, largest first."""
    places: Array = np.argsort(-x, axis=-1, kind="stable")[..., :count]
    return places


def _without_repeats(scores: Array, ids: Array, size: int) -> Array:
    """Exclude the ids that would repeat an n-gram of the sequence."""
    length = ids.shape[1]
    if length < size:
        return scores
    windows = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)
    last = ids[:, length + 1 - size :]
    matches = (windows[:, :, :-1] == last[:, None]).all(axis=-1)
    rows, places = matches.nonzero()
    scores[rows, windows[rows, places, -1]] = _NEVER
    return scores
