"""Continue sequences with an autoregressive model, for any length, at a flat cost per id.

The model sees a window of the last ids. Each step adds one latent, whose predecessors are cached. When the encoder has all
its latents, or the window is full, the window is encoded again: with half as many latents and, if it was full, without its
first ids. So every id is predicted from at least `context - num_latents / 2` ids, if there are as many, and by at least half
of the latents. The work of encoding again, at most `context` keys and values and half of the latents, is spread over the
next `num_latents / 2` ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from perceiver.adapters.text import TextTokens
from perceiver.decoders.decoding import Decoding
from perceiver.decoders.next_token import NextTokenHead
from perceiver.encoders.autoregressive import AutoregressiveEncoder, EncoderCache
from perceiver.generation.sequences import Generated, generate_ids, generated_lengths
from perceiver.generation.step import Streamer
from perceiver.tokens.masks import grid_mask


@dataclass(frozen=True, kw_only=True)
class Window:
    """The last ids of sequences, and what the encoder keeps of them.

    Args:
        ids: `(B, S)`; sequences end together, padding comes first.
        lengths: `(B,)`, number of valid ids.
        ragged: whether lengths may differ.
        encoder: cache of the encoder after these ids; None: they are yet to be encoded.
    """

    ids: Tensor
    lengths: Tensor
    ragged: bool
    encoder: EncoderCache | None = None

    def reorder(self, index: Int[Tensor, "rows"]) -> Window:
        """Return the rows `index`, in this order."""
        encoder = None if self.encoder is None else self.encoder.reorder(index)
        return replace(self, ids=self.ids[index], lengths=self.lengths[index], encoder=encoder)

    def reorder_past(self, index: Int[Tensor, "rows"]) -> Window:
        """Return the rows `index`; all that is kept depends on the ids."""
        return self.reorder(index)


class Continuation:
    """Step function of an autoregressive model; see `perceiver.generation.generate_ids`.

    Args:
        model: a `perceiver.Perceiver` of texts with an `AutoregressiveEncoder` and a `NextTokenHead`.

    Raises:
        ValueError: for another model.
    """

    def __init__(self, model: Any) -> None:
        head, encoder = model.head, model.encoder
        predicts = isinstance(head, NextTokenHead) and head.modality in model.adapters
        adapter = model.adapters[head.modality] if predicts else None
        if not isinstance(encoder, AutoregressiveEncoder) or not isinstance(adapter, TextTokens):
            raise ValueError(
                "generate: continuing a text needs a model of an adapter TextTokens, an AutoregressiveEncoder and a "
                f"NextTokenHead; got {type(adapter).__name__}, {type(encoder).__name__} and {type(head).__name__}."
            )
        self.model = model
        self.adapter, self.encoder, self.head = adapter, encoder, head
        self.fewest = (encoder.num_latents + 1) // 2
        """Number of latents with which a full window is encoded again."""

    def begin(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Window:
        """Return the window of texts `(B, L)` that were padded at the end, before anything is encoded.

        Raises:
            ValueError: for other modalities, or a text without ids.
        """
        name = self.head.modality
        if set(inputs) != {name}:
            raise ValueError(f"generate: expected the text to continue as inputs[{name!r}] alone, got {sorted(inputs)}.")
        ids = inputs[name]
        mask = grid_mask((masks or {}).get(name), batch=ids.shape[0], grid=ids.shape[1:], name=f"masks[{name!r}]")
        if mask is None:
            return Window(ids=ids, lengths=torch.full_like(ids[:, 0], ids.shape[1]), ragged=False)
        lengths = mask.sum(dim=1)
        if not bool((lengths > 0).all()):
            raise ValueError(
                f"generate: sample {int(lengths.argmin())} has no id to continue; begin its text with the id "
                f"{self.head.end_id}, which comes before each text."
            )
        # Stable, so that valid ids stay in order.
        last = mask.to(torch.int8).argsort(dim=1, stable=True)
        return Window(ids=_padded(ids.gather(1, last), lengths, self.head.pad_id), lengths=lengths, ragged=True)

    def __call__(self, ids: Int[Tensor, "rows k"], cache: Window) -> tuple[Float[Tensor, "rows k vocabulary"], Window]:
        """Return logits of the ids after each of the k new ids, and the window after them; `cache` is that before them.

        Raises:
            ValueError: for more new ids than the encoder has latents.
        """
        new, most, context = ids.shape[1], self.encoder.num_latents, self.head.context
        if not 1 <= new <= most:
            raise ValueError(f"generate: expected 1 to num_latents = {most} new ids in a step, got {new}.")
        whole = replace(cache, ids=torch.cat([cache.ids, ids], dim=1), lengths=cache.lengths + new, encoder=None)
        known = cache.encoder
        if known is None or known.length + new > most or whole.ids.shape[1] > context:
            if whole.ids.shape[1] > context:
                kept = max(context - self.fewest, new)
                whole = replace(whole, ids=whole.ids[:, -kept:], lengths=whole.lengths.clamp(max=kept))
            latents, known = self._encoded(whole, num_latents=max(self.fewest, new))
        else:
            reach = self.adapter.reach
            earlier, valid = self._last(cache, reach)
            tokens = self.adapter.following(ids, earlier=earlier, earlier_mask=valid, start=cache.lengths)
            latents, known = self.encoder.step(self._fused(tokens), known)
        logits: Tensor = self.head(latents[:, -new:], adapters=self.model.adapters)
        return logits, replace(whole, encoder=known)

    def _encoded(self, window: Window, *, num_latents: int) -> tuple[Tensor, EncoderCache]:
        """Encode all ids of a window."""
        ids, mask = window.ids, None
        if window.ragged:
            places = torch.arange(ids.shape[1], device=ids.device)
            shift = (ids.shape[1] - window.lengths)[:, None]
            ids = ids.gather(1, (places + shift).clamp(max=ids.shape[1] - 1))
            mask = places < window.lengths[:, None]
        return self.encoder.start(self._fused(self.adapter(ids, mask)), num_latents=num_latents)

    def _fused(self, tokens: Any) -> Any:
        return self.model.fusion({self.head.modality: tokens})[self.head.modality]

    def _last(self, window: Window, count: int) -> tuple[Tensor, Tensor]:
        """Return the last ids `(B, count)` of a window, with padding first, and which of them are valid."""
        size = window.ids.shape[1]
        ids = pad(window.ids, (max(0, count - size), 0), value=self.head.pad_id)
        ids = ids[:, ids.shape[1] - count :]
        from_end = torch.arange(count, 0, -1, device=ids.device)
        return ids, from_end <= window.lengths[:, None]


@torch.no_grad()
def continue_sequences(
    model: Any,
    inputs: Mapping[str, Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    streamer: Streamer | None = None,
) -> Generated:
    """Continue each text of a batch; see `perceiver.generation.generate`. The ids returned begin with the prompts.

    Of a prompt beyond the model's context, only the last ids are read. Without a limit in `decoding`, a text gets at most as
    many new ids as the encoder has latents. Texts of different lengths are continued one length after another, each as if
    it were alone: when a window is encoded again depends on its length.

    Raises:
        ValueError: as `Continuation.begin`; for a limit that leaves no new id, or a streamer for texts of different lengths.
    """
    step = Continuation(model)
    window = step.begin(inputs, masks)
    prompt = window.ids
    if not bool((window.lengths == prompt.shape[1]).all()):
        return _by_length(model, window, decoding=decoding, generator=generator, streamer=streamer)
    length = prompt.shape[1]
    most = decoding.most(length, otherwise=length + step.encoder.num_latents)
    if most <= length:
        raise ValueError(
            f"max_length: expected more than the {length} ids of the prompt, got {most}. Set max_new_tokens, which does not "
            "count the prompt."
        )
    before = replace(window, ids=prompt[:, :-1], lengths=window.lengths - 1)
    ids, scores = generate_ids(
        step,
        before,
        prompt,
        cached=length - 1,
        decoding=decoding,
        max_length=most,
        end_id=step.head.end_id,
        pad_id=step.head.pad_id,
        generator=generator,
        streamer=streamer,
    )
    return Generated(
        ids=ids,
        scores=scores,
        lengths=generated_lengths(ids, length, end_id=step.head.end_id),
        prompt=length,
        length_penalty=decoding.power_of_scores,
    )


def _by_length(
    model: Any, window: Window, *, decoding: Decoding, generator: torch.Generator | None, streamer: Streamer | None
) -> Generated:
    """Continue the texts of each length apart, and return all in their order; padding comes first, as in `window`."""
    if streamer is not None:
        lengths = sorted(set(window.lengths.tolist()))
        raise ValueError(f"streamer: expected texts of one length, got {lengths}; stream one text at a time.")
    width, pad_id = window.ids.shape[1], model.head.pad_id
    rows, parts = [], []
    for length in window.lengths.unique().tolist():
        own = (window.lengths == length).nonzero()[:, 0]
        ids = window.ids[own, width - length :]
        parts.append(continue_sequences(model, {model.head.modality: ids}, decoding=decoding, generator=generator))
        rows.append(own.repeat_interleave(decoding.num_return_sequences))
    most = max(part.ids.shape[1] - part.prompt for part in parts)
    padded = [pad(part.ids, (width - part.prompt, most + part.prompt - part.ids.shape[1]), value=pad_id) for part in parts]
    order = torch.cat(rows).argsort(stable=True)
    return replace(
        parts[0],
        ids=torch.cat(padded)[order],
        scores=torch.cat([part.scores for part in parts])[order],
        lengths=torch.cat([part.lengths + width - part.prompt for part in parts])[order],
        prompt=width,
    )


def _padded(ids: Tensor, lengths: Tensor, pad_id: int) -> Tensor:
    """Fill the places before the last `lengths` ids of each row."""
    places = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(places >= (ids.shape[1] - lengths)[:, None], ids, pad_id)
