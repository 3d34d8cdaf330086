"""Texts: strings or token ids to a tensor of ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor
from perceiver.modalities.text_bytes import VOCABULARY_SIZE, encode_bytes


def text(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    size = int(modality["vocabulary_size"])
    if isinstance(raw, str):
        if size != VOCABULARY_SIZE:
            raise ValueError(
                f"{name}: expected token ids, since the model's vocabulary of {size} is not that of UTF-8 bytes "
                f"({VOCABULARY_SIZE}); pass the ids of its tokenizer."
            )
        ids = encode_bytes(raw)
    else:
        ids = as_tensor(raw, name)
    if ids.ndim != 1 or len(ids) == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"{name}: expected a text or its ids, integers (length,), not empty; got {ids.dtype} {tuple(ids.shape)}."
        )
    ids = ids.to(torch.int64)[: modality.get("max_length")]
    if int(ids.min()) < 0 or int(ids.max()) >= size:
        raise ValueError(f"{name}: expected ids from 0 to {size - 1}, got {int(ids.min())} to {int(ids.max())}.")
    return ids
