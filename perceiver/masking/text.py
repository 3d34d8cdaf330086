"""Masking of text for masked language modelling: single tokens or whole words, and their replacements.

Perceiver IO (arXiv:2107.14795, section 4.1) masks 15% of a text, and whole words in its models on bytes. Replacing some of
the chosen tokens at random, or leaving them unchanged, comes from BERT (Devlin et al. 2018, arXiv:1810.04805, section 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from perceiver.masking.random import chosen
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE
from perceiver.tokens.masks import grid_mask

MASK = 3
"""Id of a masked byte; see `perceiver.modalities.texts.text_bytes`."""

_WHITE_SPACE = [NUM_SPECIAL + byte for byte in b" \t\n\r\v\f"]


@runtime_checkable
class Words(Protocol):
    """Grouping of tokens into words."""

    vocabulary_size: int
    """Size of the vocabulary."""

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Whether a token begins a new word even directly after another."""
        ...

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Whether a token lies between words, such as white space; it is never chosen."""
        ...


class ByteWords:
    """Words of UTF-8 bytes: the text between white space, including adjacent punctuation."""

    vocabulary_size = VOCABULARY_SIZE

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Return all False: words begin after white space only, which `between` marks."""
        return torch.zeros_like(ids, dtype=torch.bool)

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Whether a byte is ASCII white space."""
        return torch.isin(ids, torch.tensor(_WHITE_SPACE, device=ids.device))


class PieceWords:
    """Words of a subword tokenizer, recognised by the prefix of their pieces.

    Args:
        vocabulary: the pieces in the order of their ids, or a vocabulary file: a piece per line (`vocab.txt`), or a JSON
            object from piece to id (`vocab.json`).
        continuation: prefix of pieces that continue a word, such as WordPiece's "##".
        beginning: prefix of pieces that begin a word, such as SentencePiece's "▁" or GPT-2's "Ġ". Give exactly one of the
            two prefixes.

    Raises:
        ValueError: if not exactly one prefix is given, or no piece has it.
        FileNotFoundError: if the file does not exist.
    """

    def __init__(
        self,
        *,
        vocabulary: Sequence[str] | str | Path,
        continuation: str | None = None,
        beginning: str | None = None,
    ) -> None:
        if (continuation is None) == (beginning is None):
            raise ValueError(
                "PieceWords: expected exactly one of continuation, such as '##', and beginning, such as '▁'; got "
                f"continuation={continuation!r}, beginning={beginning!r}."
            )
        pieces = _read_pieces(Path(vocabulary)) if isinstance(vocabulary, str | Path) else list(vocabulary)
        mark = continuation if continuation is not None else beginning
        marked = [piece.startswith(str(mark)) for piece in pieces]
        if not any(marked):
            raise ValueError(
                f"PieceWords: expected pieces that begin with {mark!r}, but none of the {len(pieces)} does. Check that the "
                "vocabulary and the prefix belong to the same tokenizer."
            )
        self.pieces = pieces
        self.vocabulary_size = len(pieces)
        self._begins = torch.tensor(marked) != (continuation is not None)

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Whether a piece has the prefix of a beginning, or lacks that of a continuation."""
        return self._begins.to(ids.device)[ids]

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Return all False: every piece is part of a word."""
        return torch.zeros_like(ids, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """Masked texts and the tokens to predict.

    Args:
        ids: `(B, L)`, input of the model.
        index: `(B, k)`, positions of the chosen tokens, ascending.
        real: `(B, k)`, False for padding, in samples with fewer chosen tokens than others.
        target: `(B, k)`, original ids at these positions.
    """

    ids: Tensor
    index: Tensor
    real: Tensor
    target: Tensor


class TokenMasking:
    """Choose and mask a fixed share of each text's tokens or words, drawn at random on every call.

    At least one token is chosen in every text that has eligible tokens. Padding and special ids are never chosen.

    Args:
        rate: share of the tokens or words to choose, in (0, 1).
        words: choose whole words: `ByteWords`, `PieceWords`, or another object with their methods. None: single tokens.
        mask_id: id of masked tokens; 3 for bytes.
        special_ids: ids that are never chosen and never used as replacements; 0 to 5 for bytes.
        mask_share: share of the chosen tokens that are replaced by `mask_id`.
        random_share: share of the chosen tokens that are replaced by a random id that is not special. The rest is left
            unchanged but still predicted.

    Raises:
        ValueError: for an invalid share or a negative id.
    """

    def __init__(
        self,
        *,
        rate: float = 0.15,
        words: Words | None = None,
        mask_id: int = MASK,
        special_ids: Sequence[int] = tuple(range(NUM_SPECIAL)),
        mask_share: float = 0.8,
        random_share: float = 0.1,
    ) -> None:
        if not 0.0 < rate < 1.0:
            raise ValueError(f"TokenMasking.rate: expected a share above 0 and below 1, got {rate}.")
        if min(mask_share, random_share) < 0 or mask_share + random_share > 1 + 1e-9:
            raise ValueError(
                "TokenMasking: expected mask_share and random_share of at least 0 whose sum is at most 1, got "
                f"{mask_share} and {random_share}."
            )
        if mask_id < 0 or any(special < 0 for special in special_ids):
            raise ValueError(
                f"TokenMasking: expected mask_id and special_ids of at least 0, got {mask_id} and {list(special_ids)}."
            )
        self.rate = rate
        self.words = words
        self.mask_id = mask_id
        self.special_ids = tuple(sorted({*special_ids, mask_id}))
        self.mask_share = mask_share
        self.random_share = random_share

    def check(self, vocabulary_size: int) -> None:
        """Check the masking against the vocabulary of a model.

        Raises:
            ValueError: for ids outside the vocabulary, or words of another vocabulary.
        """
        if max(self.special_ids) >= vocabulary_size:
            raise ValueError(
                f"TokenMasking: mask_id {self.mask_id} and special_ids {list(self.special_ids)} must be ids in the "
                f"model's vocabulary of {vocabulary_size}. Give the ids of the model's tokenizer; for bytes (a "
                f"vocabulary of {VOCABULARY_SIZE}) they are 3 and 0 to 5."
            )
        if len(self.special_ids) >= vocabulary_size:
            raise ValueError(
                f"TokenMasking.special_ids: expected at most {vocabulary_size - 1} of the {vocabulary_size} ids, got all."
            )
        if self.words is not None and self.words.vocabulary_size != vocabulary_size:
            raise ValueError(
                f"TokenMasking.words: expected words for the model's vocabulary of {vocabulary_size} ids, got "
                f"{type(self.words).__name__} with {self.words.vocabulary_size} ids. Choose the words of the model's "
                "tokenizer, or null."
            )

    def __call__(
        self,
        ids: Int[Tensor, "batch length"],
        mask: Tensor | None = None,
        *,
        vocabulary_size: int,
        generators: Sequence[torch.Generator] | None = None,
    ) -> MaskedTokens:
        """Mask texts: return the ids that the model sees and the tokens that it predicts.

        Args:
            ids: `(B, L)`; values of padding are arbitrary.
            mask: True where valid, `(B,)` or `(B, L)`; None: all valid.
            vocabulary_size: upper bound of random replacements.
            generators: a CPU generator for each text, for evaluation: all chosen tokens are replaced by `mask_id`, so that
                no target is visible, and the choice depends on a text and its generator alone, not on padding or other
                texts. None: torch's global generator, for training.
        """
        valid = grid_mask(mask, batch=ids.shape[0], grid=ids.shape[1:], name="TokenMasking mask")
        shown = ids if valid is None else torch.where(valid, ids, torch.zeros_like(ids))
        hidden = self.choose(shown, valid, generators=generators)
        index, real = chosen(hidden, at_most=None)
        if generators is not None:
            seen = shown.masked_fill(hidden, self.mask_id)
        else:
            seen = self._replaced(shown, hidden, vocabulary_size)
        return MaskedTokens(ids=seen, index=index, real=real, target=shown.gather(1, index))

    def choose(
        self,
        ids: Int[Tensor, "batch length"],
        valid: Bool[Tensor, "batch length"] | None,
        *,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Bool[Tensor, "batch length"]:
        """Choose tokens, True where chosen; see `__call__`."""
        unit = self.units(ids, valid)
        count = unit.amax(dim=1) + 1
        scores = _draw(ids, valid, generators)
        # Unit i uses draw i; there are at most as many units as tokens.
        real = torch.arange(ids.shape[1], device=ids.device) < count[:, None]
        rank = scores.masked_fill(~real, torch.inf).argsort(dim=1).argsort(dim=1)
        wanted = (count * self.rate).round().clamp(min=1).minimum(count)
        return (rank.gather(1, unit.clamp(min=0)) < wanted[:, None]) & (unit >= 0)

    def units(
        self, ids: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"] | None
    ) -> Int[Tensor, "batch length"]:
        """Number the units of choice, words or tokens, from 0 in each text; -1 where nothing may be chosen."""
        able = ~torch.isin(ids, torch.tensor(self.special_ids, device=ids.device))
        if valid is not None:
            able = able & valid
        if self.words is None:
            begins = able
        else:
            able = able & ~self.words.between(ids)
            before = torch.cat([torch.zeros_like(able[:, :1]), able[:, :-1]], dim=1)
            begins = able & (self.words.begins(ids) | ~before)
        return torch.where(able, begins.cumsum(dim=1) - 1, -1)

    def _replaced(self, ids: Tensor, hidden: Tensor, vocabulary_size: int) -> Tensor:
        """Return the ids that the model sees in training."""
        fate = torch.rand(ids.shape, device=ids.device)
        seen = ids.masked_fill(hidden & (fate < self.mask_share), self.mask_id)
        if self.random_share == 0:
            return seen
        special = set(self.special_ids)
        usual = torch.tensor([number for number in range(vocabulary_size) if number not in special], device=ids.device)
        other = usual[torch.randint(len(usual), ids.shape, device=ids.device)].to(ids.dtype)
        return torch.where(hidden & (fate >= 1 - self.random_share), other, seen)


def _draw(ids: Tensor, valid: Tensor | None, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Draw scores `(B, L)` in [0, 1)."""
    if generators is None:
        return torch.rand(ids.shape, device=ids.device)
    if len(generators) != len(ids):
        raise ValueError(f"TokenMasking: expected one generator for each of the {len(ids)} texts, got {len(generators)}.")
    scores = torch.zeros(ids.shape)
    lengths = [ids.shape[1]] * len(ids) if valid is None else valid.sum(dim=1).tolist()
    for row, (length, generator) in enumerate(zip(lengths, generators, strict=True)):
        # One draw per valid token, so that padding does not change the draws.
        scores[row, :length] = torch.rand(length, generator=generator)
    return scores.to(ids.device)


def _read_pieces(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text.splitlines()
    try:
        numbers = json.loads(text)
        by_id = {int(number): str(piece) for piece, number in numbers.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON object from piece to id, like vocab.json: {error}") from error
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"{path}: expected the ids 0 to {len(by_id) - 1}, one piece each.")
    return [by_id[number] for number in range(len(by_id))]
