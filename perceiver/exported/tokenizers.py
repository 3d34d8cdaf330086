"""Tokenizers of exported models: text to ids and back; the rules are those of `perceiver.modalities.texts.tokenizers`.

Texts of byte pairs are made from ids in plain Python. The other way needs the package `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

NUM_SPECIAL, BYTES = 6, 262
"""Special ids before those of bytes, and the number of all ids; see `perceiver.modalities.texts.text_bytes`."""

PAD, START, END = 0, 1, 2
_LARGEST = 64 * 1024 * 1024


def decoder_of(spec: Mapping[str, Any] | None) -> Callable[[Sequence[int]], str]:
    """Return the function from ids to text of a spec's entry `tokenizer`; special ids are skipped.

    Raises:
        ValueError: for an unknown kind, or a damaged tokenizer.
        ModuleNotFoundError: for a tokenizer without bytes, if the package `tokenizers` is not installed.
    """
    kind = (spec or {}).get("kind", "bytes")
    if kind == "bytes":
        return text_of_bytes
    if kind == "pairs":
        return _pairs((spec or {}).get("json"))
    raise ValueError(f"tokenizer.kind: expected bytes or pairs, got {str(kind)[:40]!r}.")


def text_of_bytes(ids: Sequence[int]) -> str:
    """Return the text of ids of bytes; invalid UTF-8 becomes U+FFFD."""
    return bytes(number - NUM_SPECIAL for number in ids if NUM_SPECIAL <= number < BYTES).decode("utf-8", errors="replace")


def encode_pairs(text: str, tokenizer: Any, name: str) -> list[int]:
    """Return the ids of a text.

    Raises:
        ModuleNotFoundError: if the package `tokenizers` is not installed; `name` names the sample.
    """
    return [int(number) for number in _library_tokenizer(_text(tokenizer), name).encode(text).ids]


def _text(json_text: Any) -> str:
    if not isinstance(json_text, str) or len(json_text) > _LARGEST:
        raise ValueError(f"tokenizer: expected the JSON text of a tokenizer of at most {_LARGEST:,} characters.")
    return json_text


def _pairs(json_text: Any) -> Callable[[Sequence[int]], str]:
    pieces = _pieces(_text(json_text))
    if pieces is None:
        tokenizer = _library_tokenizer(json_text, "predict")
        return lambda ids: str(tokenizer.decode([number for number in ids if number > END], skip_special_tokens=True))
    return lambda ids: b"".join(pieces.get(number, b"") for number in ids if number > END).decode("utf-8", errors="replace")


@lru_cache(maxsize=4)
def _pieces(json_text: str) -> dict[int, bytes] | None:
    """Return the bytes of each id of a byte-level tokenizer; None for tokenizers of other kinds."""
    try:
        content = json.loads(json_text)
        vocabulary, decoder = content["model"]["vocab"], content.get("decoder") or {}
        added = {int(token["id"]): token for token in content.get("added_tokens") or []}
        if decoder.get("type") != "ByteLevel" or not isinstance(vocabulary, dict):
            return None
        alphabet = _bytes_of_characters()
        pieces = {}
        for token, number in vocabulary.items():
            known = all(character in alphabet for character in token)
            pieces[int(number)] = bytes(alphabet[one] for one in token) if known else str(token).encode()
        # Special tokens are left out of texts.
        return pieces | {
            number: b"" if one.get("special") else str(one["content"]).encode() for number, one in added.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"tokenizer: damaged ({type(error).__name__}: {str(error)[:100]}).") from None


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character with which byte-level tokenizers write bytes (as GPT-2 does)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


@lru_cache(maxsize=4)
def _library_tokenizer(json_text: str, name: str) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name}: this model's tokenizer needs the package tokenizers: pip install tokenizers. Token ids do not.",
            name="tokenizers",
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer: expected the JSON text of a tokenizer ({str(error)[:200]}).") from None
    # Otherwise a text could name the end token, and end its own sequence.
    tokenizer.encode_special_tokens = True
    return tokenizer
