"""Prompts as bytes, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes

TEXT_SPEC: dict[str, Any] = {"kind": "text", "shape": [None], "vocabulary_size": VOCABULARY_SIZE}
"""Entry of prompts in the spec."""


def text_batch(texts: Sequence[str]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"] | None]:
    """Return the bytes of texts, padded, and their mask; None if all have one length."""
    rows = [_encoded(text) for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(rows, batch_first=True)
    whole = bool((lengths == ids.shape[1]).all())
    return ids, None if whole else torch.arange(ids.shape[1]) < lengths[:, None]


@lru_cache(maxsize=4096)
def _encoded(text: str) -> Tensor:
    return encode_bytes(text)
