"""Tokenizers: round trips over any text, reserved ids, and tokenizers from files that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.texts.tokenizers import (
    END,
    ByteTokenizer,
    LibraryTokenizer,
    PairTokenizer,
    tokenizer_of,
    train_pairs,
)

TEXTS = ["a dog runs", "a dog sleeps", "zwei Hunde laufen", "ein Hund schläft"] * 5


@pytest.fixture(scope="module")
def pairs() -> str:
    return train_pairs(TEXTS, vocabulary_size=280)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_bytes_survive(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert ByteTokenizer().decode([1, *ids, 2, 0, 0]) == text
    assert all(END < number < ByteTokenizer.vocabulary_size for number in ids)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_pairs_survive(pairs: str, text: str) -> None:
    tokenizer = PairTokenizer(pairs)
    ids = tokenizer.encode(text)
    assert tokenizer.decode([1, *ids, 2, 0, 0]) == text
    assert all(END < number < tokenizer.vocabulary_size for number in ids)


def test_pairs_are_learned_from_the_texts_alone(pairs: str) -> None:
    assert train_pairs(TEXTS, vocabulary_size=280) == pairs
    tokenizer = tokenizer_of({"kind": "pairs", "json": pairs})
    assert tokenizer.vocabulary_size == 280
    assert len(tokenizer.encode("a dog runs")) < 7 < len(tokenizer.encode("quixotic"))
    spec = {"kind": "text", "tokenizer": {"kind": "pairs", "json": pairs}, "vocabulary_size": 280}
    ids = preprocess("a dog", spec=spec, name="x")
    assert ids.tolist() == tokenizer.encode("a dog")


def test_text_that_looks_like_a_special_token(pairs: str) -> None:
    """A text cannot end a sequence by naming the end token."""
    tokenizer = PairTokenizer(pairs)
    assert min(tokenizer.encode("<pad> <s> </s>")) > END


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "words"}, "expected bytes, pairs or library, got 'words'"),
        ({"kind": "pairs"}, "expected the JSON text of a tokenizer"),
        ({"kind": "pairs", "json": "{}"}, "expected the JSON text of a tokenizer"),
        ({"kind": "pairs", "json": "[" * 100_000}, "expected the JSON text of a tokenizer"),
    ],
)
def test_specs_that_hold_no_tokenizer(spec: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_of(spec)


def test_a_tokenizer_without_the_reserved_ids(pairs: str) -> None:
    changed = json.loads(pairs)
    vocabulary = changed["model"]["vocab"]
    vocabulary["<pad>"], vocabulary["<s>"] = vocabulary["<s>"], vocabulary["<pad>"]
    changed["added_tokens"] = []
    with pytest.raises(ValueError, match="expected the"):
        PairTokenizer(json.dumps(changed))
    with pytest.raises(ValueError, match="260 or more"):
        train_pairs(TEXTS, vocabulary_size=100)


def test_pieces_of_a_library_tokenizer_join_to_the_text() -> None:
    """WordPiece as in BERT, whose words have no mark of the space before them, and byte-level pairs."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "dog", "##s", "run"]
    pieces = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.add_special_tokens(["[CLS]", "[SEP]"])
    pieces.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    own = LibraryTokenizer(pieces.to_str(), 16)
    ids = own.encode("the dogs fly")
    assert ids == [1, 3, 4, 5, 0, 2]
    assert own.unknown == {0}
    assert own.pieces(ids) == [b"", b" the", b" dog", b"s", b" [UNK]", b""]
    pairs = LibraryTokenizer(train_pairs(["grün und gut"] * 3, vocabulary_size=270), 16)
    assert b"".join(pairs.pieces(pairs.encode("grün, gut"))).decode() == "grün, gut"
    assert pairs.unknown == frozenset()
