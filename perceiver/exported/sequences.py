"""Generation with an exported step, in NumPy: greedy, sampling, beam search; the rules of `perceiver.generation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.exported.decoding import Decoding, log_softmax, top

Array = NDArray[Any]

_NEVER = np.float32(-1.0e9)


def memory_names(layers: int) -> list[str]:
    """Return the names of the tensors of a memory: its mask, then keys and values of each layer."""
    return ["memory.mask", *(f"memory.{part}.{layer}" for layer in range(layers) for part in ("key", "value"))]


def past_names(layers: int) -> list[str]:
    """Return the names of the keys and values of earlier ids, for each layer."""
    return [f"past.{part}.{layer}" for layer in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Return the names of the same after a step."""
    return [name.replace("past", "present") for name in past_names(layers)]


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a step takes and returns: arrays by name.

    Args:
        memory: see `memory_names`; the same at every step.
        past: see `past_names`; `(R, h, S, d)` after S ids.
    """

    memory: Mapping[str, Array]
    past: Mapping[str, Array]

    def reorder(self, index: Array) -> Cache:
        """Return the rows `index`, in this order."""
        return replace(self.reorder_past(index), memory={name: x[index] for name, x in self.memory.items()})

    def reorder_past(self, index: Array) -> Cache:
        """Return the rows `index` of what depends on the ids; each takes the memory of the row that it replaces."""
        return replace(self, past={name: x[index] for name, x in self.past.items()})


Step = Callable[[Array, Cache], tuple[Array, Cache]]
"""Ids `(R, L)` -> logits of the ids that follow `(R, L, V)`, and the cache after them."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated sequences, `num_return_sequences` for each sample, beside one another; as `perceiver.Generated`.

    Args:
        ids: `(S, L)`, prompts included; after the end id come padding ids.
        scores: `(S,)`, sums of log probabilities of the generated ids; for beams divided by the length penalty.
        lengths: `(S,)`, number of ids with prompt and end id.
    """

    ids: Array
    scores: Array
    lengths: Array


def generate_ids(
    step: Step,
    cache: Cache,
    prompt: Array,
    *,
    decoding: Decoding,
    max_length: int,
    end_id: int,
    pad_id: int,
    generator: np.random.Generator | None = None,
) -> Generated:
    """Generate a sequence for each row of prompts `(B, P)`; see `perceiver.generation.generate_ids`."""
    count = decoding.num_beams if decoding.num_beams > 1 else decoding.num_return_sequences
    if count > 1:
        cache = cache.reorder(np.repeat(np.arange(len(prompt)), count))
    if decoding.num_beams > 1:
        ids, scores = _beam_search(step, cache, prompt, decoding, max_length, end_id, pad_id)
    else:
        ids, scores = _one_by_one(
            step, cache, np.repeat(prompt, count, axis=0), decoding, max_length, end_id, pad_id, generator
        )
    ends = ids[:, prompt.shape[1] :] == end_id
    first = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ends.shape[1])
    return Generated(ids=ids, scores=scores, lengths=first + prompt.shape[1])


def _one_by_one(
    step: Step,
    cache: Cache,
    prompt: Array,
    decoding: Decoding,
    max_length: int,
    end_id: int,
    pad_id: int,
    generator: np.random.Generator | None,
) -> tuple[Array, Array]:
    """Take the most probable id, or draw one, until all sequences have ended."""
    rows, length = prompt.shape
    ids = np.full((rows, max_length), pad_id, dtype=np.int64)
    ids[:, :length] = prompt
    scores = np.zeros(rows, dtype=np.float32)
    running, open_, new = np.arange(rows), np.ones(rows, dtype=np.bool_), prompt
    draws = generator or np.random.default_rng()
    while length < max_length:
        logits, cache = step(new, cache)
        ranked = decoding.scores(logits[:, -1], ids[running, :length], end_id=end_id)
        shares = log_softmax(ranked)
        if decoding.do_sample:
            # The most probable of log probabilities with Gumbel noise is a draw from the probabilities.
            token = (shares + draws.gumbel(size=shares.shape)).argmax(axis=-1)
        else:
            token = ranked.argmax(axis=-1)
        gained = np.take_along_axis(shares, token[:, None], axis=1)[:, 0]
        token = np.where(open_, token, pad_id)
        scores[running] += np.where(open_, gained, np.float32(0))
        ids[running, length] = token
        length += 1
        open_ = open_ & (token != end_id)
        if not open_.any():
            break
        if open_.sum() <= 0.7 * len(open_):
            # Rows that have ended are left behind.
            keep = open_.nonzero()[0]
            cache, running, token, open_ = cache.reorder(keep), running[keep], token[keep], open_[keep]
        new = token[:, None]
    return ids[:, :length], scores


def _beam_search(
    step: Step, cache: Cache, prompt: Array, decoding: Decoding, max_length: int, end_id: int, pad_id: int
) -> tuple[Array, Array]:
    """Search for the sequences with the highest score; see `perceiver.generation.beams`."""
    (batch, length), beams = prompt.shape, decoding.num_beams
    first = length
    full = np.full((batch, beams, max_length), pad_id, dtype=np.int64)
    full[:, :, :length] = prompt[:, None]
    ids, finished_ids = full, full.copy()
    scores = np.full((batch, beams), _NEVER, dtype=np.float32)
    finished_scores = scores.copy()
    scores[:, 0] = 0  # all beams begin with the same prompt
    is_finished = np.zeros((batch, beams), dtype=np.bool_)
    improvable = np.ones((batch, 1), dtype=np.bool_)
    offsets = np.arange(batch)[:, None] * beams
    new = np.repeat(prompt, beams, axis=0)
    while length < max_length:
        logits, cache = step(new, cache)
        ranked = decoding.scores(
            log_softmax(logits[:, -1]), ids[:, :, :length].reshape(batch * beams, length), end_id=end_id
        )
        vocabulary = ranked.shape[-1]
        total = (ranked.reshape(batch, beams, vocabulary) + scores[..., None]).reshape(batch, -1)
        # Twice as many as there are beams: enough remain if the best ones all end here.
        place = top(total, 2 * beams)
        best = np.take_along_axis(total, place, axis=1)
        source, token = place // vocabulary, place % vocabulary
        candidates = _rows(ids, source).copy()
        candidates[:, :, length] = token
        ends = token == end_id if length + 1 < max_length else np.ones_like(token, dtype=np.bool_)
        # Candidates after the first `beams` are only there to continue.
        ended = ends & (np.arange(2 * beams) < beams)
        full_up = is_finished.all(axis=1, keepdims=True) & (decoding.early_stopping is True)
        closed = (~ended | full_up | ~improvable) * _NEVER
        scored = (best / np.float32((length + 1 - first) ** decoding.length_penalty) + closed).astype(np.float32)
        finished_scores = np.concatenate([finished_scores, scored], axis=1)
        kept = top(finished_scores, beams)
        finished_scores = np.take_along_axis(finished_scores, kept, axis=1)
        finished_ids = _rows(np.concatenate([finished_ids, candidates], axis=1), kept)
        is_finished = np.take_along_axis(np.concatenate([is_finished, ended], axis=1), kept, axis=1)
        continuing = best + ends * _NEVER
        going = top(continuing, beams)
        ids, scores = _rows(candidates, going).copy(), np.take_along_axis(continuing, going, axis=1)
        length += 1
        farthest = decoding.early_stopping == "never" and decoding.length_penalty > 0
        hopeful = max_length - first if farthest else length - first
        possible = scores[:, :1] / np.float32(hopeful**decoding.length_penalty)
        worst = np.where(is_finished, finished_scores.min(axis=1, keepdims=True), _NEVER)
        improvable = improvable & (possible > worst).any(axis=-1, keepdims=True)
        all_full = bool(is_finished.all()) and decoding.early_stopping is True
        if not improvable.any() or all_full or ends.all():
            break
        cache = cache.reorder_past((np.take_along_axis(source, going, axis=1) + offsets).reshape(-1))
        new = ids[:, :, length - 1].reshape(-1, 1)
    count = decoding.num_return_sequences
    best_ids, best_scores = finished_ids[:, :count], finished_scores[:, :count]
    # Beams that ran on after the best ones had ended leave only padding behind.
    stops = best_ids[:, :, first:length] == end_id
    lengths = np.where(stops.any(axis=-1), stops.argmax(axis=-1) + 1, length - first)
    chosen = best_ids[:, :, : first + int(lengths.max())]
    return chosen.reshape(-1, chosen.shape[-1]), best_scores.reshape(-1)


def _rows(ids: Array, index: Array) -> Array:
    """Select beams `(B, k)` of sequences `(B, beams, L)`."""
    selected: Array = np.take_along_axis(ids, index[..., None], axis=1)
    return selected
