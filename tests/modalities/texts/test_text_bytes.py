"""Bytes of text as ids: against transformers' tokenizer, every character, cut and broken texts, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE, decode_bytes, encode_bytes

TEXTS = ["a", "Hello, world!", "Grüße aus Köln", "日本語", "🙂 x", "tab\there\nline", "[PAD] is no padding", "\x00\x7f"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_bytes_plus_six(text: str) -> None:
    ids = encode_bytes(text)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [byte + 6 for byte in text.encode("utf-8")]


@pytest.mark.parametrize("text", [text for text in TEXTS if "[PAD]" not in text])
def test_same_ids_as_the_published_tokenizer(text: str) -> None:
    tokenizer = pytest.importorskip("transformers").PerceiverTokenizer()
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == encode_bytes(text).tolist()
    assert len(tokenizer) == VOCABULARY_SIZE == 262
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    special += [tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert special == list(range(NUM_SPECIAL))


@given(text=st.text())
def test_texts_come_back(text: str) -> None:
    assert decode_bytes(encode_bytes(text)) == text


def test_the_empty_text_has_no_ids() -> None:
    assert encode_bytes("").shape == (0,)
    assert encode_bytes("").dtype == torch.int64
    assert decode_bytes(encode_bytes("")) == ""


def test_special_ids_are_left_out() -> None:
    ids = torch.cat([torch.tensor([1, 4]), encode_bytes("né"), torch.tensor([2, 0, 0])])
    assert decode_bytes(ids) == "né"


def test_texts_cut_within_a_character_are_read_nevertheless() -> None:
    assert decode_bytes(encode_bytes("né")[:-1]) == "n\ufffd"


def test_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(ValueError, match=r"character 2 of the text, '\\ud83d', is half a surrogate pair.*errors='replace'"):
        encode_bytes("ab\ud83dc")


@pytest.mark.parametrize("wrong", [-1, 262, 1000])
def test_ids_outside_the_vocabulary_are_named(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids in \[0, 262\), got {wrong} at position 1"):
        decode_bytes(torch.tensor([70, wrong]))


@pytest.mark.usefixtures("unchecked")
def test_one_text_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"ids \(length,\) of one text, got shape \(1, 3\)"):
        decode_bytes(torch.zeros(1, 3, dtype=torch.int64))
