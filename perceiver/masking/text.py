"""Choosing tokens of texts that a model shall fill in: single ones or whole words, and what it sees in their places.

Perceiver IO (arXiv:2107.14795, section 4.1) hides 15% of a text; its models on bytes have whole words hidden. That some of
what is chosen is replaced at random or left as it is comes from BERT (Devlin et al. 2018, arXiv:1810.04805, section 3.1).
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
from perceiver.masks import grid_mask
from perceiver.modalities.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE

MASK = 3
"""The id that stands for a hidden byte; see `perceiver.modalities.text_bytes`."""

_WHITE_SPACE = [NUM_SPECIAL + byte for byte in b" \t\n\r\v\f"]


@runtime_checkable
class Words(Protocol):
    """What says which tokens belong together."""

    vocabulary_size: int
    """Of the ids that it knows."""

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Where a token belongs to another word than the one before it."""
        ...

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Tokens that are part of no word, which are never chosen: white space."""
        ...


class ByteWords:
    """Words of UTF-8 bytes: what stands between white space, punctuation at their ends included."""

    vocabulary_size = VOCABULARY_SIZE

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Nowhere but behind white space, which is part of no word."""
        return torch.zeros_like(ids, dtype=torch.bool)

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """White space of ASCII."""
        return torch.isin(ids, torch.tensor(_WHITE_SPACE, device=ids.device))


class PieceWords:
    """Words of a tokenizer that cuts them in pieces, by the marks that its pieces bear.

    Args:
        vocabulary: the pieces in the order of their ids, or a file of them: a piece a line (`vocab.txt`), or a JSON object
            from piece to id (`vocab.json`).
        continuation: pieces that begin like this continue a word, as WordPiece's do.
        beginning: pieces that begin like this begin a word and the others continue it, as SentencePiece's with "▁" and those
            of GPT-2 with "Ġ". Give one of the two.

    Raises:
        ValueError: both marks or none, no pieces, or a mark that no piece bears.
        FileNotFoundError: there is no such file.
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
                "PieceWords: expected either continuation, such as '##', or beginning, such as '▁', got "
                f"continuation={continuation!r}, beginning={beginning!r}."
            )
        pieces = _read_pieces(Path(vocabulary)) if isinstance(vocabulary, str | Path) else list(vocabulary)
        mark = continuation if continuation is not None else beginning
        bears = [piece.startswith(str(mark)) for piece in pieces]
        if not any(bears):
            raise ValueError(f"PieceWords: none of the {len(pieces)} pieces begins with {mark!r}; are they another's?")
        self.pieces = pieces
        self.vocabulary_size = len(pieces)
        self._begins = torch.tensor(bears) != (continuation is not None)

    def begins(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Pieces that bear the mark of a beginning, or none of a continuation."""
        return self._begins.to(ids.device)[ids]

    def between(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Nothing: pieces are parts of words."""
        return torch.zeros_like(ids, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """Texts of which some tokens are to be filled in.

    Args:
        ids: `(B, L)`, what the model sees.
        index: `(B, k)`, the places of the chosen tokens, ascending.
        real: `(B, k)`, False where a sample has fewer of them than others.
        target: `(B, k)`, what stood there.
    """

    ids: Tensor
    index: Tensor
    real: Tensor
    target: Tensor


class TokenMasking:
    """Chooses the same share of each text's tokens, or of its words, anew every time.

    Every text with a token to choose has one at least chosen. Padding and special ids never are.

    Args:
        rate: the share, in (0, 1).
        words: choose whole words: `ByteWords`, `PieceWords`, or what else has their methods. None: single tokens.
        mask_id: stands for what is hidden; 3 for bytes.
        special_ids: are never chosen, and never put in place of something; 0 to 5 for bytes.
        mask_share: of the chosen tokens, how many are replaced by `mask_id`.
        random_share: how many by any id that is not special. The rest is left as it is, and to be told nevertheless.

    Raises:
        ValueError: a share that is none.
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
                "TokenMasking: expected mask_share and random_share of at least 0 that are at most 1 together, got "
                f"{mask_share} and {random_share}."
            )
        if mask_id < 0 or any(one < 0 for one in special_ids):
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
        """Hold it against the vocabulary of a model.

        Raises:
            ValueError: ids that it does not have, or words of another vocabulary.
        """
        if max(self.special_ids) >= vocabulary_size:
            raise ValueError(
                f"TokenMasking: mask_id {self.mask_id} and special_ids {list(self.special_ids)} must be ids of the model's "
                f"vocabulary of {vocabulary_size}. Give those of its tokenizer; bytes, with a vocabulary of "
                f"{VOCABULARY_SIZE}, have 3 and 0 to 5."
            )
        if len(self.special_ids) >= vocabulary_size:
            raise ValueError(f"TokenMasking.special_ids: all {vocabulary_size} ids are special, so nothing can be chosen.")
        if self.words is not None and self.words.vocabulary_size != vocabulary_size:
            raise ValueError(
                f"TokenMasking.words: {type(self.words).__name__} knows the words of a vocabulary of "
                f"{self.words.vocabulary_size}, the model's has {vocabulary_size}. Choose words of its tokenizer, or null."
            )

    def __call__(
        self,
        ids: Int[Tensor, "batch length"],
        mask: Tensor | None = None,
        *,
        vocabulary_size: int,
        generators: Sequence[torch.Generator] | None = None,
    ) -> MaskedTokens:
        """Ids -> what the model sees, and what it shall tell.

        Args:
            ids: `(B, L)`; padding may be anything.
            mask: True where valid, `(B,)` or `(B, L)`; None: everything.
            vocabulary_size: random replacements are below it.
            generators: one for each text, on the CPU; then all chosen tokens are replaced by `mask_id`, so that nothing of
                what is to be told is seen, and what is chosen depends on a text and its generator alone, not on padding or
                other texts. None: torch's global one, as for training.
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
        """Which tokens; see `__call__`."""
        unit = self.units(ids, valid)
        count = unit.amax(dim=1) + 1
        scores = _draw(ids, valid, generators)
        # A draw for each unit: that at the place of its number, of which there are no more than tokens.
        real = torch.arange(ids.shape[1], device=ids.device) < count[:, None]
        rank = scores.masked_fill(~real, torch.inf).argsort(dim=1).argsort(dim=1)
        wanted = (count * self.rate).round().clamp(min=1).minimum(count)
        return (rank.gather(1, unit.clamp(min=0)) < wanted[:, None]) & (unit >= 0)

    def units(
        self, ids: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"] | None
    ) -> Int[Tensor, "batch length"]:
        """What is chosen as one: numbers of words, or tokens, from 0 in each text; -1 where nothing may be chosen."""
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
        """What the model sees in training."""
        fate = torch.rand(ids.shape, device=ids.device)
        seen = ids.masked_fill(hidden & (fate < self.mask_share), self.mask_id)
        if self.random_share == 0:
            return seen
        special = set(self.special_ids)
        usual = torch.tensor([one for one in range(vocabulary_size) if one not in special], device=ids.device)
        other = usual[torch.randint(len(usual), ids.shape, device=ids.device)].to(ids.dtype)
        return torch.where(hidden & (fate >= 1 - self.random_share), other, seen)


def _draw(ids: Tensor, valid: Tensor | None, generators: Sequence[torch.Generator] | None) -> Tensor:
    """`(B, L)` in [0, 1)."""
    if generators is None:
        return torch.rand(ids.shape, device=ids.device)
    if len(generators) != len(ids):
        raise ValueError(f"TokenMasking: expected a generator for each of {len(ids)} texts, got {len(generators)}.")
    scores = torch.zeros(ids.shape)
    lengths = [ids.shape[1]] * len(ids) if valid is None else valid.sum(dim=1).tolist()
    for row, (length, generator) in enumerate(zip(lengths, generators, strict=True)):
        # As many as it has tokens: padding must not change what is drawn.
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
        raise ValueError(f"{path}: expected a JSON object from piece to id, as vocab.json is: {error}") from error
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"{path}: expected the ids 0 to {len(by_id) - 1}, one piece each.")
    return [by_id[number] for number in range(len(by_id))]
