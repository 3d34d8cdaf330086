"""Beam search over a step function with a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perceiver.decoders.decoding import Decoding
from perceiver.generation.step import Caching, Step

_NEVER = -1.0e9


@dataclass
class _Beams:
    """Sequences `(B, beams, L)` with their scores `(B, beams)`."""

    ids: Tensor
    scores: Tensor

    def gather(self, index: Tensor) -> _Beams:
        return _Beams(ids=_gather(self.ids, index), scores=self.scores.gather(1, index))


def beam_search(
    step: Step,
    cache: Caching,
    ids: Tensor,
    *,
    decoding: Decoding,
    max_length: int,
    end_id: int,
    pad_id: int,
    cached: int = 0,
) -> tuple[Tensor, Tensor]:
    """Search for the sequences with the highest score, as transformers' `generate` does.

    Args:
        step: gives logits of the next ids, and the cache after them.
        cache: cache before the prompt, with `num_beams` rows for each sample, beside one another.
        ids: prompt `(B, P)`.
        decoding: settings.
        max_length: most ids, those of the prompt included.
        end_id: id that ends a sequence.
        pad_id: id that fills shorter sequences.
        cached: number of ids of the prompt that the cache already has.

    Returns:
        ids `(B, R, L)` and scores `(B, R)` of the best R = `num_return_sequences` sequences, best first.
    """
    batch, prompt = ids.shape
    beams = decoding.num_beams
    full = ids.new_full((batch, beams, max_length), pad_id)
    full[:, :, :prompt] = ids[:, None]
    start = torch.full((batch, beams), _NEVER, device=ids.device)
    running = _Beams(ids=full, scores=start.clone())
    running.scores[:, 0] = 0  # all beams begin with the same prompt
    finished = _Beams(ids=full.clone(), scores=start)
    is_finished = torch.zeros(batch, beams, dtype=torch.bool, device=ids.device)
    improvable = torch.ones(batch, 1, dtype=torch.bool, device=ids.device)
    offsets = torch.arange(batch, device=ids.device)[:, None] * beams
    new = ids[:, None, cached:].expand(-1, beams, -1).flatten(0, 1)
    length = prompt
    while length < max_length:
        logits, cache = step(new, cache)
        log_probabilities = logits[:, -1].float().log_softmax(dim=-1)
        scores = decoding.scores(log_probabilities, running.ids[:, :, :length].flatten(0, 1), end_id=end_id)
        vocabulary = scores.shape[-1]
        total = (scores.unflatten(0, (batch, beams)) + running.scores[..., None]).flatten(1)
        # Twice as many as there are beams: enough remain if the best ones all end here.
        best, place = total.topk(2 * beams)
        source, token = place // vocabulary, place % vocabulary
        candidates = _Beams(ids=_gather(running.ids, source), scores=best)
        candidates.ids[:, :, length] = token
        ends = token == end_id if length + 1 < max_length else torch.ones_like(token, dtype=torch.bool)
        # Candidates after the first `beams` are only there to continue.
        ended = ends & (torch.arange(2 * beams, device=ids.device) < beams)
        full_up = is_finished.all(dim=1, keepdim=True) & (decoding.early_stopping is True)
        closed = (~ended | full_up | ~improvable) * _NEVER
        scored = best / (length + 1 - prompt) ** decoding.length_penalty + closed
        merged = _Beams(ids=torch.cat([finished.ids, candidates.ids], 1), scores=torch.cat([finished.scores, scored], 1))
        kept = merged.scores.topk(beams).indices
        is_finished = torch.cat([is_finished, ended], 1).gather(1, kept)
        finished = merged.gather(kept)
        candidates.scores = best + ends * _NEVER
        going = candidates.scores.topk(beams).indices
        running = candidates.gather(going)
        length += 1
        hopeful = (
            max_length - prompt if decoding.early_stopping == "never" and decoding.length_penalty > 0 else length - prompt
        )
        possible = running.scores[:, :1] / hopeful**decoding.length_penalty
        worst = torch.where(is_finished, finished.scores.amin(dim=1, keepdim=True), _NEVER)
        improvable = improvable & (possible > worst).any(dim=-1, keepdim=True)
        all_full = bool(is_finished.all()) and decoding.early_stopping is True
        if not bool(improvable.any()) or all_full or bool(ends.all()):
            break
        cache = cache.reorder_past((source.gather(1, going) + offsets).flatten())
        new = running.ids[:, :, length - 1].flatten()[:, None]
    count = decoding.num_return_sequences
    best_ids, best_scores = finished.ids[:, :count], finished.scores[:, :count]
    # Beams that ran on after the best ones had ended leave only padding behind.
    ends = (best_ids[:, :, prompt:length] == end_id).int()
    lengths = torch.where(ends.any(dim=-1), ends.argmax(dim=-1) + 1, length - prompt)
    return best_ids[:, :, : prompt + int(lengths.max())], best_scores


def _gather(ids: Tensor, index: Tensor) -> Tensor:
    """Select beams `(B, k)` of sequences `(B, beams, L)`."""
    return ids.gather(1, index[..., None].expand(-1, -1, ids.shape[-1]))
