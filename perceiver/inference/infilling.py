"""Texts with gaps, filled in by a model of masked tokens: one that was trained here, or imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from perceiver.decoders import Head, QueryDecoder
from perceiver.masking.text import MASK
from perceiver.modalities.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE, decode_bytes, encode_bytes
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating


@dataclass(frozen=True, kw_only=True)
class FilledIn:
    """A text whose gaps a model has filled in.

    Args:
        text: the whole; empty where ids are not those of bytes.
        ids: `(L,)`, the same as ids.
        places: of the gaps in it.
        probabilities: what the model gave to each id that it put there.
        alternatives: for each gap the most probable ids and their probabilities, as the model saw them when it filled it.
    """

    text: str
    ids: Tensor
    places: list[int]
    probabilities: list[float]
    alternatives: list[list[tuple[int, float]]]


def fill_in(
    model: Perceiver,
    text: str | Int[Tensor, "length"] | Sequence[int],
    *,
    marker: str = "[MASK]",
    one_by_one: bool = False,
    enclose: tuple[Sequence[int], Sequence[int]] = ((), ()),
    modality: str | None = None,
    mask_id: int = MASK,
    special_ids: Sequence[int] = tuple(range(NUM_SPECIAL)),
    num_alternatives: int = 5,
) -> FilledIn:
    """What a model puts into the gaps of a text.

    Args:
        model: of masked tokens: from `task=masked_tokens`, or `perceiver.interop.huggingface.from_transformers` of a
            `PerceiverForMaskedLM`.
        text: with a marker for each hidden byte, `"The [MASK][MASK][MASK] sat"`; or ids, with `mask_id` in the gaps.
        marker: what stands for a hidden byte, one of which makes one gap.
        one_by_one: fill the gap of which the model is most certain, look again, and so on, instead of all at once: gaps side
            by side then fit each other, at the cost of a run of the model for each.
        enclose: ids before and after the text that the model was trained with: `([4], [5])` for the published one.
        modality: of the text; None: the one that the model's head is for.
        mask_id: stands for what is hidden; 3 for bytes.
        special_ids: never filled in; 0 to 5 for bytes.
        num_alternatives: to tell of each gap.

    Raises:
        ValueError: the text has no gap, is longer than the model takes, or the model is none of masked tokens.
    """
    name = _modality_of(model) if modality is None else modality
    vocabulary_size = vocabulary_of(model, name)
    if mask_id >= vocabulary_size or max(special_ids, default=0) >= vocabulary_size:
        raise ValueError(f"fill_in: expected mask_id and special_ids below {vocabulary_size}, got {mask_id}, {special_ids}.")
    own = _ids(text, marker=marker, mask_id=mask_id, vocabulary_size=vocabulary_size)
    first, last = (torch.tensor(list(some), dtype=torch.int64) for some in enclose)
    ids = torch.cat([first, own, last])
    places = (own == mask_id).nonzero().flatten() + len(first)
    if not len(places):
        raise ValueError(f"fill_in.text: expected a gap or more, marked by {marker!r}, or {mask_id} among ids; got none.")

    device = next(model.parameters()).device
    probability, alternatives = [0.0] * len(places), [[(0, 0.0)]] * len(places)
    with evaluating(model):
        left = list(range(len(places)))
        while left:
            index = places[left]
            logits = model({name: ids[None].to(device)}, index=index.to(device))[0].float().cpu()
            logits[:, list({*special_ids, mask_id})] = -torch.inf
            best = logits.softmax(dim=-1).topk(min(num_alternatives, vocabulary_size), dim=-1)
            filled = [int(best.values[:, 0].argmax())] if one_by_one else list(range(len(left)))
            for row in filled:
                ids[index[row]] = best.indices[row, 0]
                probability[left[row]] = float(best.values[row, 0])
                alternatives[left[row]] = list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
            left = [one for row, one in enumerate(left) if row not in filled]
    ids = ids[len(first) : len(ids) - len(last)]
    return FilledIn(
        text=decode_bytes(ids) if vocabulary_size == VOCABULARY_SIZE else "",
        ids=ids,
        places=(places - len(first)).tolist(),
        probabilities=probability,
        alternatives=alternatives,
    )


def vocabulary_of(model: Perceiver, modality: str, *, asker: str = "fill_in") -> int:
    """How many ids the text of a model of masked tokens has.

    Raises:
        ValueError: the model has no such text, or its head gives no logits of its ids.
    """
    adapter = dict(model.adapters.items()).get(modality)
    size = getattr(adapter, "vocabulary_size", None)
    if not isinstance(size, int):
        got = f"none of {sorted(model.adapters)}" if adapter is None else f"that of a {type(adapter).__name__}"
        raise ValueError(
            f"{asker}.modality: expected text, of an adapter with a vocabulary_size such as perceiver.adapters.TextTokens; "
            f"{modality!r} is {got}."
        )
    head = model.head
    if not isinstance(head, QueryDecoder) or head.output_channels != size:
        got = type(head).__name__ + (f" with {head.output_channels} outputs" if isinstance(head, Head) else "")
        raise ValueError(
            f"{asker}: expected a model whose head tells tokens, a perceiver.decoders.QueryDecoder with logits of the "
            f"{size} ids of {modality!r}, got {got}; task=masked_tokens sets it."
        )
    return size


def _modality_of(model: Perceiver) -> str:
    """The modality of the text that the head predicts."""
    named = model.head.modality if isinstance(model.head, QueryDecoder) else None
    return next(iter(model.adapters)) if named is None else named


def _ids(text: str | Tensor | Sequence[int], *, marker: str, mask_id: int, vocabulary_size: int) -> Tensor:
    if not isinstance(text, str):
        ids = torch.as_tensor(text, dtype=torch.int64)
        if ids.ndim != 1:
            raise ValueError(f"fill_in.text: expected the ids (length,) of one text, got shape {tuple(ids.shape)}.")
        return ids.clone()
    if vocabulary_size != VOCABULARY_SIZE:
        raise ValueError(
            f"fill_in.text: expected ids, since the model's vocabulary of {vocabulary_size} is not that of UTF-8 bytes "
            f"({VOCABULARY_SIZE}); give those of its tokenizer, with mask_id in the gaps."
        )
    if not marker:
        raise ValueError("fill_in.marker: expected what stands for a hidden byte, got an empty text.")
    gap = torch.tensor([mask_id])
    parts = [part for piece in text.split(marker) for part in (encode_bytes(piece), gap)]
    return torch.cat(parts[:-1])
