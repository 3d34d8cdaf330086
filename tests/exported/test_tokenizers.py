"""Texts of ids in plain Python, as the library makes them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.exported.tokenizers import decoder_of, encode_pairs
from perceiver.modalities.texts.tokenizers import tokenizer_of, train_pairs

PAIRS = {"kind": "pairs", "json": train_pairs(["a dog", "grün, 日本", "two  dogs\n"], vocabulary_size=280)}


@given(st.lists(st.integers(0, 300), max_size=20), st.sampled_from([{"kind": "bytes"}, PAIRS, None]))
def test_any_ids(ids: list[int], spec: dict[str, Any] | None) -> None:
    """Invalid UTF-8, special ids and unknown ids included; ids of bytes end at 261."""
    ids = ids if spec is PAIRS else [number for number in ids if number < 262]
    assert decoder_of(spec)(ids) == tokenizer_of(spec).decode(ids)


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    assert encode_pairs(text, PAIRS["json"], "x") == tokenizer_of(PAIRS).encode(text)
    assert decoder_of(PAIRS)(encode_pairs(text, PAIRS["json"], "x")) == text


def test_tokenizers_of_other_kinds_go_to_the_library() -> None:
    content = json.loads(PAIRS["json"])
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": False}
    spec = {"kind": "pairs", "json": json.dumps(content)}
    ids = encode_pairs("dogs", spec["json"], "x")
    assert decoder_of(spec)(ids) == tokenizer_of(spec).decode(ids)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "words"}, "tokenizer.kind: expected bytes or pairs, got 'words'"),
        ({"kind": "pairs"}, "expected the JSON text"),
        ({"kind": "pairs", "json": "{"}, "tokenizer: damaged"),
        ({"kind": "pairs", "json": "[" * 100_000}, "tokenizer: damaged"),
        ({"kind": "pairs", "json": '{"model": {"vocab": {"a": "x"}}, "decoder": {"type": "ByteLevel"}}'}, "damaged"),
        ({"kind": "pairs", "json": '{"model": {"vocab": {}}, "decoder": {"type": "WordPiece"}}'}, "expected the JSON text"),
    ],
)
def test_damaged_tokenizers(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoder_of(spec)
