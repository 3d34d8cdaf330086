"""Text as ids of its UTF-8 bytes: no learned vocabulary, and suitable for every language.

Ids follow Perceiver IO's tokenizer (appendix B of the paper; `PerceiverTokenizer` in transformers): 0 padding, 1 beginning,
2 end, 3 mask, 4 class, 5 separator, then the 256 bytes. No special id is added here.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

NUM_SPECIAL = 6
"""Number of special ids, before the id of byte 0."""

VOCABULARY_SIZE = NUM_SPECIAL + 256
"""Number of all ids: special ids and bytes."""


def encode_bytes(text: str) -> Int[Tensor, "length"]:
    """Return the ids `(L,)` int64 of the L UTF-8 bytes of a text; `(0,)` for the empty text.

    Raises:
        ValueError: if the text contains a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        raw = bytearray(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"encode_bytes: character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair and has no "
            "UTF-8 form. Decode the file with errors='replace' to read it nevertheless."
        ) from None
    # torch rejects an empty buffer.
    ids = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.zeros(0, dtype=torch.uint8)
    return ids.to(torch.int64) + NUM_SPECIAL


def decode_bytes(ids: Int[Tensor, "length"]) -> str:
    """Return the text of ids `(L,)`; special ids are skipped, and invalid UTF-8, as in cut texts, becomes U+FFFD.

    Raises:
        ValueError: for ids outside the vocabulary, or a different shape.
    """
    if ids.ndim != 1:
        raise ValueError(f"decode_bytes: expected ids (length,) of one text, got shape {tuple(ids.shape)}.")
    values = ids.tolist()
    for position, value in enumerate(values):
        if not 0 <= value < VOCABULARY_SIZE:
            raise ValueError(f"decode_bytes: expected ids in [0, {VOCABULARY_SIZE}), got {value} at position {position}.")
    return bytes(value - NUM_SPECIAL for value in values if value >= NUM_SPECIAL).decode("utf-8", errors="replace")
