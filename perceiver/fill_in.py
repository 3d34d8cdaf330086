"""Texts with gaps, filled in by a model of masked tokens: one that was trained here, or imported."""

from __future__ import annotations

from perceiver.decoders import QueryDecoder
from perceiver.model import Perceiver


def vocabulary_of(model: Perceiver, modality: str, *, asker: str = "fill_in") -> int:
    """How many ids the text of a model of masked tokens has.

    Raises:
        ValueError: the model has no such text, or its head gives no logits of its ids.
    """
    adapter = model.adapters[modality] if modality in model.adapters else None
    size = getattr(adapter, "vocabulary_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"{asker}.modality: expected text, of an adapter with a vocabulary_size such as perceiver.adapters.TextTokens; "
            f"{modality!r} is {'none of ' + str(sorted(model.adapters)) if adapter is None else type(adapter).__name__}."
        )
    head = model.head
    tied = getattr(head, "tied_logits", None)
    outputs = getattr(getattr(head, "output", None), "out_features", None)
    found = tied.bias.shape[0] if tied is not None else outputs
    if not isinstance(head, QueryDecoder) or found != size:
        got = type(head).__name__ + ("" if found is None else f" with {found} outputs")
        raise ValueError(
            f"{asker}: expected a model whose head tells tokens, a perceiver.decoders.QueryDecoder with logits of the {size} "
            f"ids of {modality!r}, got {got}; task=masked_tokens sets it."
        )
    return size
