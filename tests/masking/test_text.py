"""Masking of tokens: shares, whole words, padding, what is seen, and that nothing but a text and its seed decides."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver.masking.text import (
    MASK,
    ByteWords,
    PieceWords,
    TokenMasking,
    Words,
)
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE, encode_bytes

TEXTS = st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5)
RATES = st.floats(0.01, 0.99)


def batch_of(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids padded at the end with what must not matter, and their mask."""
    rows = [encode_bytes(text) for text in texts]
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), VOCABULARY_SIZE - 1)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, own in enumerate(rows):
        ids[row, : len(own)], mask[row, : len(own)] = own, True
    return ids, mask


def seeded(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


def masked_by(masking: TokenMasking, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Any:
    return masking(ids, mask, vocabulary_size=VOCABULARY_SIZE, **more)


@given(texts=TEXTS, rate=RATES, whole=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_what_is_chosen(texts: list[str], rate: float, whole: bool, seed: int) -> None:
    """The share of units, no padding, at least one where there is one, whole words, places ascending."""
    ids, mask = batch_of(texts)
    torch.manual_seed(seed)
    masking = TokenMasking(rate=rate, words=ByteWords() if whole else None)
    masked = masked_by(masking, ids, mask)
    for row, text in enumerate(texts):
        places = masked.index[row][masked.real[row]].tolist()
        assert places == sorted(set(places))
        assert all(bool(mask[row, place]) for place in places)
        assert masked.target[row][masked.real[row]].tolist() == [int(ids[row, place]) for place in places]
        raw = text.encode()
        if not whole:
            assert len(places) == min(len(raw), max(1, round(len(raw) * torch.tensor(rate, dtype=torch.float32).item())))
            continue
        words = words_of(raw)
        hidden = [word for word in words if word[0] in places]
        assert places == [place for word in hidden for place in word], "whole words and nothing else"
        assert len(hidden) == 0 if not words else 1 <= len(hidden) <= max(1, round(len(words) * rate) + 1)
        if words:
            assert abs(len(hidden) - len(words) * rate) <= max(1.0, 1 - len(words) * rate)


def words_of(raw: bytes) -> list[list[int]]:
    """Places of the bytes of each word, counted by hand."""
    groups = groupby(range(len(raw)), key=lambda place: raw[place : place + 1] in (b" ", b"\t", b"\n", b"\r", b"\v", b"\f"))
    return [list(places) for space, places in groups if not space]


@given(texts=TEXTS, seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_generators_alone_decide(texts: list[str], seed: int) -> None:
    """Neither padding nor neighbours nor the global state; and all that is chosen is hidden."""
    masking = TokenMasking(rate=0.3, words=ByteWords())
    ids, mask = batch_of(texts)
    together = masked_by(masking, ids, mask, generators=seeded(len(texts), seed))
    torch.rand(seed % 7 + 1)
    for row, text in enumerate(texts):
        alone = masked_by(masking, encode_bytes(text)[None], generators=seeded(1, seed + row))
        length = len(text.encode())
        assert torch.equal(alone.ids[0], together.ids[row, :length])
        assert together.ids[row].gather(0, together.index[row])[together.real[row]].eq(MASK).all()


def test_replacements_have_their_shares() -> None:
    ids = torch.randint(NUM_SPECIAL, VOCABULARY_SIZE, (50, 400))
    masking = TokenMasking(rate=0.5, mask_share=0.6, random_share=0.3)
    masked = masked_by(masking, ids)
    seen = masked.ids.gather(1, masked.index)
    hidden = seen == MASK
    kept = seen == masked.target
    assert float(hidden.float().mean()) == pytest.approx(0.6, abs=0.02)
    assert float(kept.float().mean()) == pytest.approx(0.1 + 0.3 / 256, abs=0.02)
    others = seen[~hidden & ~kept]
    assert int(others.min()) >= NUM_SPECIAL
    assert len(others.unique()) == 256
    untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, masked.index, False)
    assert torch.equal(masked.ids[untouched], ids[untouched])


def test_special_ids_are_neither_chosen_nor_part_of_words() -> None:
    ids = torch.tensor([[4, 70, 71, 5, 72, 0, 0]])
    for words in (None, ByteWords()):
        units = TokenMasking(words=words).units(ids, None)
        assert (units >= 0).tolist() == [[False, True, True, False, True, False, False]]
    assert units.tolist() == [[-1, 0, 0, -1, 1, -1, -1]]


@pytest.mark.parametrize("text", ["   ", "\n"])
def test_texts_without_words(text: str) -> None:
    masked = masked_by(TokenMasking(words=ByteWords()), encode_bytes(text)[None])
    assert not masked.real.any()
    assert torch.equal(masked.ids[0], encode_bytes(text))
    assert bool(masked_by(TokenMasking(), encode_bytes(text)[None]).real.any()), "single bytes may be white space"


def test_a_text_that_is_absent() -> None:
    masked = masked_by(TokenMasking(), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    assert masked.index.shape == (2, 1)
    assert not masked.real.any()


PIECES = ["[PAD]", "[MASK]", "un", "##break", "##able", "glass", "s"]


@pytest.mark.parametrize("form", ["list", "txt", "json"])
def test_words_of_pieces(form: str, tmp_path: Path) -> None:
    vocabulary: Any = PIECES
    if form != "list":
        vocabulary = tmp_path / f"vocab.{form}"
        text = "\n".join(PIECES) if form == "txt" else json.dumps({piece: number for number, piece in enumerate(PIECES)})
        vocabulary.write_text(text)
    masking = TokenMasking(words=PieceWords(vocabulary=vocabulary, continuation="##"), mask_id=1, special_ids=[0, 1])
    masking.check(len(PIECES))
    assert masking.units(torch.tensor([[2, 3, 4, 5, 6, 0, 3]]), None).tolist() == [[0, 0, 0, 1, 2, -1, 3]]
    marked = ["<pad>", "<mask>", "▁un", "break", "able", "▁glass"]
    masking = TokenMasking(words=PieceWords(vocabulary=marked, beginning="▁"), mask_id=1, special_ids=[0, 1])
    assert masking.units(torch.tensor([[2, 3, 4, 5, 4, 0]]), None).tolist() == [[0, 0, 0, 1, 1, -1]]


def test_forms_of_words() -> None:
    assert isinstance(ByteWords(), Words)
    assert isinstance(PieceWords(vocabulary=["a", "##b"], continuation="##"), Words)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rates_outside(rate: float) -> None:
    with pytest.raises(ValueError, match=r"TokenMasking.rate: expected a share above 0 and below 1"):
        TokenMasking(rate=rate)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask_share": 0.8, "random_share": 0.3}, "sum is at most 1, got 0.8 and 0.3"),
        ({"mask_share": -0.1}, "of at least 0"),
        ({"mask_id": -1}, "of at least 0, got -1"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TokenMasking(**arguments)


@pytest.mark.parametrize(
    ("masking", "size", "words"),
    [
        (TokenMasking(mask_id=103), 50, "mask_id 103 .* must be ids in the model's vocabulary of 50"),
        (TokenMasking(), 6, "expected at most 5 of the 6 ids, got all|must be ids"),
        (TokenMasking(words=ByteWords()), 1000, "for the model's vocabulary of 1000 ids, got ByteWords with 262 ids"),
    ],
)
def test_vocabularies_that_do_not_fit(masking: TokenMasking, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        masking.check(size)


def test_wrong_vocabularies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one of continuation"):
        PieceWords(vocabulary=["a"])
    with pytest.raises(ValueError, match="expected pieces that begin with '##', but none of the 1 does"):
        PieceWords(vocabulary=["a"], continuation="##")
    (tmp_path / "vocab.json").write_text('{"a": 0, "##b": 2}')
    with pytest.raises(ValueError, match=r"vocab.json: expected the ids 0 to 1, one piece each"):
        PieceWords(vocabulary=tmp_path / "vocab.json", continuation="##")
    with pytest.raises(ValueError, match="expected one generator for each of the 2 texts, got 1"):
        masked_by(TokenMasking(), torch.full((2, 3), 70), generators=seeded(1))
