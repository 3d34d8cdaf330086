"""Text as UTF-8 bytes: no vocabulary to build, no word unknown."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

SPECIAL_TOKENS = ("pad", "bos", "eos", "mask", "cls", "sep")
"""Ids 0 to 5, as in Perceiver IO's tokenizer (Jaegle et al. 2021b, appendix E); bytes begin after them."""

VOCABULARY_SIZE = len(SPECIAL_TOKENS) + 256


def encode_bytes(text: str) -> Int[Tensor, "length"]:
    """The UTF-8 bytes of a text plus 6, int64; no special tokens are added."""
    return torch.tensor(list(text.encode()), dtype=torch.int64) + len(SPECIAL_TOKENS)


def decode_bytes(ids: Int[Tensor, "length"]) -> str:
    """The text of byte ids; special tokens are left out, broken UTF-8 becomes U+FFFD."""
    bytes_ = (ids[ids >= len(SPECIAL_TOKENS)] - len(SPECIAL_TOKENS)).tolist()
    return bytes(bytes_).decode(errors="replace")
