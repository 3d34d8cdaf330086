"""Continue a text with an autoregressive model: one call from string to string."""

from __future__ import annotations

import torch
from torch import Tensor

from perceiver.decoders.decoding import Decoding
from perceiver.decoders.next_token import NextTokenHead
from perceiver.generation import continue_sequences
from perceiver.generation.step import Streamer
from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating


def continue_text(
    model: Perceiver,
    text: str,
    *,
    decoding: Decoding | None = None,
    generator: torch.Generator | None = None,
    streamer: Streamer | None = None,
) -> str:
    """Return what follows a text, as an autoregressive model predicts it, in evaluation mode.

    The text may be longer than the model's context: its last part is read. So may be what follows it: the context slides.

    Args:
        model: a model of texts with a `NextTokenHead`, such as one from `perceiver.load` after
            `experiment=perceiver_ar_text`.
        text: text to continue.
        decoding: how to choose ids, and how many; None: as the head was configured.
        generator: random state for `do_sample`; None: torch's own.
        streamer: receives ids while they are generated.

    Raises:
        ValueError: for another model, or an empty text.

    Examples:
        >>> from perceiver import AutoregressiveEncoder, Decoding, Fourier, NextTokenHead, Perceiver, continue_text
        >>> from perceiver.adapters import TextTokens
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=16, position=Fourier(num_bands=4, resolution=(64,)))
        >>> encoder = AutoregressiveEncoder(token_channels=text.channels, num_latents=8, latent_channels=16, num_layers=1)
        >>> head = NextTokenHead(latent_channels=16, channels=16, vocabulary_size=262, context=64)
        >>> spec = {"modalities": {"text": {"kind": "text", "vocabulary_size": 262}}}
        >>> model = Perceiver(adapters={"text": text}, encoder=encoder, head=head, spec=spec)
        >>> isinstance(continue_text(model, "The if statement", decoding=Decoding(max_new_tokens=5)), str)
        True
    """
    head = model.head
    if not isinstance(head, NextTokenHead) or head.modality not in ((model.spec or {}).get("modalities") or {}):
        raise ValueError(
            f"continue_text: expected a model with a NextTokenHead and a spec of its text, got {type(head).__name__}. Train "
            "one with experiment=perceiver_ar_text, or use perceiver.generate."
        )
    assert model.spec is not None
    # A maximum would cut the end of the text, from which the model continues; the context is the head's.
    modality = {**model.spec["modalities"][head.modality], "max_length": None}
    ids = preprocess(text, spec=modality, name="text")
    assert isinstance(ids, Tensor)
    with evaluating(model):
        found = continue_sequences(
            model,
            {head.modality: ids[None].to(next(model.parameters()).device)},
            decoding=head.decoding if decoding is None else decoding,
            generator=generator,
            streamer=streamer,
        ).new()
    special = {head.pad_id, head.end_id}
    new = [number for number in found.ids[0].tolist() if number not in special]
    return tokenizer_of(modality.get("tokenizer")).decode(new)
