"""Texts: strings or token ids to a tensor of ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, positive
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.texts.cut_texts import too_long
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.modalities.texts.tokenizers import LibraryTokenizer, tokenizer_of


@final
class TextModality(Modality):
    """Texts: strings, converted to UTF-8 bytes or by the spec's `tokenizer`, or ids -> `(L,)` int64.

    Texts of more than `max_length` ids lose their ends, or are refused if `truncate` is false.
    """

    channel_axis = None
    settings: ClassVar = {"files": False, "max_length": None, "truncate": True, "vocabulary_size": VOCABULARY_SIZE}

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return vocabulary size and maximum length, whether cells name files, and whether long texts are refused."""
        positive(settings, "max_length")
        positive(settings, "vocabulary_size", optional=False)
        if not isinstance(settings["truncate"], bool):
            raise ValueError(f"truncate: expected true or false, got {settings['truncate']!r}.")
        refused = {} if settings["truncate"] else {"truncate": False}
        return {"shape": [None], **{key: settings[key] for key in ("vocabulary_size", "max_length", "files")}, **refused}

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one text."""
        size = int(spec["vocabulary_size"])
        if isinstance(raw, str) and "tokenizer" in spec:
            ids = torch.tensor(tokenizer_of(spec["tokenizer"]).encode(raw), dtype=torch.int64)
        elif isinstance(raw, str):
            if size != VOCABULARY_SIZE:
                raise ValueError(
                    f"{name}: expected token ids, because the model has a vocabulary of {size}, unlike UTF-8 bytes "
                    f"({VOCABULARY_SIZE}). Pass ids from its tokenizer."
                )
            ids = encode_bytes(raw)
        else:
            ids = as_tensor(raw, name)
        if ids.ndim != 1 or len(ids) == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"{name}: expected a text, or its ids as a non-empty integer array (length,); got {ids.dtype} "
                f"{tuple(ids.shape)}."
            )
        most = spec.get("max_length")
        if most is not None and not spec.get("truncate", True) and is_cut(raw, spec):
            raise too_long(name, f"{len(ids)} ids" if len(ids) > most else "more", most)
        ids = ids.to(torch.int64)[:most]
        if int(ids.min()) < 0 or int(ids.max()) >= size:
            raise ValueError(f"{name}: expected ids from 0 to {size - 1}, got {int(ids.min())} to {int(ids.max())}.")
        return ids


def is_cut(raw: Any, spec: ModalitySpec) -> bool:
    """Return whether preprocessing cuts a text, or its ids, to the spec's `max_length`."""
    most = spec.get("max_length")
    if most is None:
        return False
    if not isinstance(raw, str):
        return bool(len(raw) > most)
    tokenizer = tokenizer_of(spec.get("tokenizer"))
    return tokenizer.cuts(raw) if isinstance(tokenizer, LibraryTokenizer) else bool(len(tokenizer.encode(raw)) > most)
