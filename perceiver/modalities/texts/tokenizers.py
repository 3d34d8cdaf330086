"""Tokenizers: text to ids and back. UTF-8 bytes, or byte pairs learned from training texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE, encode_bytes

PAD, START, END = 0, 1, 2
"""Ids that every tokenizer here reserves; those of Perceiver IO's bytes."""

_LARGEST = 64 * 1024 * 1024


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back, with the special ids `PAD`, `START` and `END`.

    Attributes:
        vocabulary_size: ids are in [0, vocabulary_size).
        unknown: ids that stand for any unknown text; empty if there is no unknown text.
    """

    vocabulary_size: int
    unknown: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ids are skipped, and invalid UTF-8 becomes U+FFFD."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the UTF-8 bytes of each id; those of special ids are empty."""
        ...


class ByteTokenizer:
    """An id for each UTF-8 byte: nothing to learn, and suitable for every language.

    Examples:
        >>> from perceiver.modalities import ByteTokenizer
        >>> ByteTokenizer().decode(ByteTokenizer().encode("grün"))
        'grün'
    """

    vocabulary_size = VOCABULARY_SIZE
    unknown: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = encode_bytes(text).tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """See `Tokenizer`."""
        return [bytes([number - NUM_SPECIAL]) if number >= NUM_SPECIAL else b"" for number in ids]


class PairTokenizer:
    """Byte-level byte pair encoding by the package `tokenizers`: no text has unknown characters.

    Args:
        json: the tokenizer as the JSON text of `tokenizers`; plain data, kept in the spec.

    Raises:
        ImportError: if `tokenizers` is not installed.
        ValueError: if the text is no tokenizer, or lacks the special ids.
    """

    def __init__(self, json: str) -> None:
        tokenizers = _library()
        if not isinstance(json, str) or len(json) > _LARGEST:
            raise ValueError(f"tokenizer: expected the JSON text of a tokenizer of at most {_LARGEST:,} characters.")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer: expected the JSON text of a tokenizer ({error}).") from None
        # Otherwise a text could name the end token, and end its own sequence.
        self._tokenizer.encode_special_tokens = True
        special = [self._tokenizer.id_to_token(number) for number in (PAD, START, END)]
        if special != ["<pad>", "<s>", "</s>"]:
            raise ValueError(f"tokenizer: expected the special tokens <pad>, <s>, </s> as ids 0, 1, 2; got {special}.")
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        self.unknown = _unknown_of(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        text: str = self._tokenizer.decode([number for number in ids if number > END], skip_special_tokens=True)
        return text

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """See `Tokenizer`."""
        return [self._piece(number) if number > END else b"" for number in ids]

    def _piece(self, number: int) -> bytes:
        token = self._tokenizer.id_to_token(number) or ""
        try:
            return bytes(_BYTES[character] for character in token)
        except KeyError:  # not a byte-level tokenizer
            return token.encode("utf-8", errors="replace")


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for (Radford et al. 2019, GPT-2).

    Bytes that print as Latin-1 stand for themselves, and the others, in order, are the characters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes_of_characters()


class LibraryTokenizer:
    """A tokenizer of a pretrained network, with the special ids that it adds to each text.

    A text that contains the name of a special token, such as "[SEP]", gets the ids of its characters.

    Args:
        json: the tokenizer as the JSON text of `tokenizers` (a `tokenizer.json`); plain data, kept in the spec.
        max_length: longer texts are cut to this number of ids, special ids included.

    Raises:
        ImportError: if `tokenizers` is not installed.
        ValueError: if the text is no tokenizer.
    """

    def __init__(self, json: str, max_length: int) -> None:
        tokenizers = _library()
        if not isinstance(json, str) or len(json) > _LARGEST:
            raise ValueError(f"tokenizer: expected the JSON text of a tokenizer of at most {_LARGEST:,} characters.")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json)
            # Padding is left to masks: a network needs no padding id.
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(max_length)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"tokenizer: expected the JSON text of a tokenizer ({error}).") from None
        self._tokenizer.encode_special_tokens = True
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        self.unknown = _unknown_of(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with special ids."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def cuts(self, text: str) -> bool:
        """Return whether `encode` cuts a text to `max_length` ids."""
        return bool(self._tokenizer.encode(text).overflowing)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """See `Tokenizer`; words of WordPiece begin with a space."""
        return [b"" if number in self._special else self._piece(number) for number in ids]

    def _piece(self, number: int) -> bytes:
        token = self._tokenizer.id_to_token(number) or ""
        if getattr(self._tokenizer.model, "continuing_subword_prefix", None) == "##":
            token = token[2:] if token.startswith("##") else f" {token}"
        elif all(character in _BYTES for character in token):
            return bytes(_BYTES[character] for character in token)
        return token.replace("\u2581", " ").encode("utf-8", errors="replace")  # SentencePiece's mark of a space


def _unknown_of(tokenizer: Any) -> frozenset[int]:
    """Return the id that stands for unknown characters, if there is one."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    number = None if unknown is None else tokenizer.token_to_id(unknown)
    return frozenset() if number is None else frozenset([number])


def train_pairs(texts: Iterable[str], *, vocabulary_size: int) -> str:
    """Learn byte pairs from training texts; return the JSON text for `PairTokenizer`. The same texts give the same pairs.

    Args:
        texts: texts of the training split.
        vocabulary_size: number of ids, with 256 bytes and three special ids.

    Raises:
        ImportError: if `tokenizers` is not installed.
        ValueError: for a vocabulary that is too small.
    """
    tokenizers = _library()
    if vocabulary_size < 260:
        raise ValueError(
            f"vocabulary_size: expected 260 or more (256 bytes, three special ids, a pair), got {vocabulary_size}."
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    json: str = tokenizer.to_str()
    return json


def learn_tokenizer(kind: str, texts: Iterable[str], *, vocabulary_size: int) -> dict[str, Any]:
    """Return the spec's entry of a tokenizer for training texts.

    Args:
        kind: bytes, which learns nothing, or pairs.
        texts: texts of the training split.
        vocabulary_size: see `train_pairs`.

    Raises:
        ImportError, ValueError: see `train_pairs`.
    """
    if kind == "bytes":
        return {"kind": "bytes"}
    return {"kind": "pairs", "json": train_pairs(texts, vocabulary_size=vocabulary_size)}


def tokenizer_of(spec: Mapping[str, Any] | None) -> Tokenizer:
    """Return the tokenizer of a spec's entry: `{"kind": "bytes"}` (or nothing), or `{"kind": "pairs", "json": …}`.

    For inputs of pretrained networks also `{"kind": "library", "json": …, "max_length": …}`.

    Raises:
        ImportError: if it needs `tokenizers`, which is not installed.
        ValueError: for an unknown kind, or an invalid tokenizer.
    """
    kind = (spec or {}).get("kind", "bytes")
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "pairs":
        return _pairs(str((spec or {}).get("json")))
    if kind == "library":
        return _pretrained(str((spec or {}).get("json")), int((spec or {}).get("max_length") or 512))
    raise ValueError(f"tokenizer.kind: expected bytes, pairs or library, got {kind!r}.")


@lru_cache(maxsize=4)
def _pairs(json: str) -> PairTokenizer:
    return PairTokenizer(json)


@lru_cache(maxsize=4)
def _pretrained(json: str, max_length: int) -> LibraryTokenizer:
    return LibraryTokenizer(json, max_length)


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise ImportError(
            "This tokenizer needs the package tokenizers: pip install 'perceiver[text]', or use the tokenizer bytes."
        ) from None
    return tokenizers
