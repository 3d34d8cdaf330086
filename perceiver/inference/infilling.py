"""Infilling: predict the gaps of a text with a masked language model, trained here or imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from perceiver.decoders import Head, QueryDecoder
from perceiver.masking.text import MASK
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE, decode_bytes, encode_bytes
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating


@dataclass(frozen=True, kw_only=True)
class FilledIn:
    """A text whose gaps a model has filled in.

    Args:
        text: the complete text; empty if the ids are not bytes.
        ids: `(L,)`, ids of the complete text.
        places: positions of the gaps in `ids`.
        probabilities: predicted probability of the id in each gap.
        alternatives: for each gap, the most probable ids with their probabilities at the time it was filled.

    Examples:
        >>> import torch
        >>> from perceiver import FilledIn
        >>> ids, found = torch.tensor([105, 103, 122]), [[(103, 0.9)]]
        >>> filled = FilledIn(text="cat", ids=ids, places=[1], probabilities=[0.9], alternatives=found)
        >>> [filled.text[place] for place in filled.places]
        ['a']
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
    """Predict the gaps of a text with a masked language model.

    Args:
        model: a masked language model from `task=masked_tokens`, or from `perceiver.interop.huggingface.from_transformers`
            with a `PerceiverForMaskedLM`.
        text: text with a marker for each hidden byte, `"The [MASK][MASK][MASK] sat"`; or ids, with `mask_id` in the gaps.
        marker: string that stands for a hidden byte; each occurrence is a gap.
        one_by_one: repeatedly fill the gap with the most confident prediction and run the model again, instead of filling
            all gaps at once. Adjacent gaps then agree with each other, at the cost of a forward pass per gap.
        enclose: ids before and after the text in the model's training: `([4], [5])` for the published model.
        modality: name of the text modality; None: the modality that the model's head predicts.
        mask_id: id of a gap; 3 for bytes.
        special_ids: ids that are never filled in; 0 to 5 for bytes.
        num_alternatives: number of alternatives to return for each gap.

    Raises:
        ValueError: if the text has no gap or is too long for the model, or if the model is not a masked language model.

    Examples:
        >>> import perceiver
        >>> from perceiver import Encoder, LearnedQueries, LearnedTable, Perceiver, QueryDecoder
        >>> from perceiver.adapters import TextTokens
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=16, position=LearnedTable(grid=[32], channels=8))
        >>> encoder = Encoder(token_channels=text.channels, num_latents=4, latent_channels=16, num_self_heads=2)
        >>> queries = LearnedQueries(grid=[32], channels=16, modality="text")
        >>> decoder = QueryDecoder(latent_channels=16, queries=queries, output_channels=262)
        >>> model = Perceiver(adapters={"text": text}, encoder=encoder, head=decoder)  # untrained
        >>> filled = perceiver.fill_in(model, "The [MASK][MASK]t sat")
        >>> filled.places, len(filled.ids)
        ([4, 5], 11)
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
        raise ValueError(f"fill_in.text: expected at least one gap: {marker!r} in a text, or {mask_id} in the ids.")

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
    """Return the vocabulary size of a masked language model's text.

    Raises:
        ValueError: if the model has no such text, or its head does not output logits over the text's ids.
    """
    adapter = dict(model.adapters.items()).get(modality)
    size = getattr(adapter, "vocabulary_size", None)
    if not isinstance(size, int):
        kind = f"not among {sorted(model.adapters)}" if adapter is None else f"that of a {type(adapter).__name__}"
        raise ValueError(
            f"{asker}.modality: expected a text modality (its adapter has a vocabulary_size, like "
            f"perceiver.adapters.TextTokens), but {modality!r} is {kind}."
        )
    head = model.head
    if not isinstance(head, QueryDecoder) or head.output_channels != size:
        got = type(head).__name__ + (f" with {head.output_channels} outputs" if isinstance(head, Head) else "")
        raise ValueError(
            f"{asker}: expected a model whose head predicts tokens, a perceiver.decoders.QueryDecoder with logits "
            f"over the {size} ids of {modality!r}; got {got}. task=masked_tokens sets such a head."
        )
    return size


def _modality_of(model: Perceiver) -> str:
    """Return the name of the text modality that the head predicts."""
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
            f"fill_in.text: expected ids, because the model has a vocabulary of {vocabulary_size}, unlike UTF-8 bytes "
            f"({VOCABULARY_SIZE}). Encode the text with the model's tokenizer, with mask_id in the gaps."
        )
    if not marker:
        raise ValueError("fill_in.marker: expected a string that marks a gap, got an empty string.")
    gap = torch.tensor([mask_id])
    parts = [part for piece in text.split(marker) for part in (encode_bytes(piece), gap)]
    return torch.cat(parts[:-1])
