"""Texts as targets: ids with start and end, and predictions of generated sequences."""

import sys

import pytest
import torch

from perceiver.generation import Generated
from perceiver.modalities.texts.tokenizers import ByteTokenizer, learn_tokenizer
from perceiver.targets.kinds import target_of
from perceiver.targets.text import TextTarget, text_target


def test_ids_begin_and_end() -> None:
    target = TextTarget(tokenizer=ByteTokenizer(), max_length=5)
    ids = target.ids("abc", where="row 1")
    assert (int(ids[0]), int(ids[-1])) == (1, 2)
    assert ByteTokenizer().decode(ids.tolist()) == "abc"
    with pytest.raises(ValueError, match=r"row 1: its target text has 4 ids, .*more than data\.max_length = 5\. Raise"):
        target.ids("abcd", where="row 1")
    cutting = TextTarget(tokenizer=ByteTokenizer(), max_length=5, truncate=True)
    cut, was_cut = cutting.encoded("abcd", where="row 1")
    assert (cut.tolist(), was_cut) == (ids.tolist(), True)
    assert cutting.encoded("abc", where="row 1")[1] is False


def test_texts_without_a_known_character() -> None:
    with pytest.raises(ValueError, match=r"row 1: its target text is empty\. Leave the sample out"):
        TextTarget(tokenizer=ByteTokenizer(), max_length=5).ids("", where="row 1")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "[UNK]": 3, "dog": 4}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    target = target_of({"target": text_target(tokenizer={"kind": "pairs", "json": words.to_str()}, max_length=8)})
    assert isinstance(target, TextTarget)
    assert target.ids("a dog", where="row 1").tolist() == [1, 3, 4, 2]
    with pytest.raises(ValueError, match=r"row 1: its target text has no character that the tokenizer knows: 'a cat'"):
        target.ids("a cat", where="row 1")
    assert target.tokenizer.pieces([4]) == [b"dog"]


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    message = r"needs the package tokenizers: pip install 'perceiver\[text\]', or use the tokenizer bytes"
    with pytest.raises(ImportError, match=message):
        learn_tokenizer("pairs", ["a"], vocabulary_size=300)
    with pytest.raises(ImportError, match=message):
        target_of({"target": {"kind": "text", "tokenizer": {"kind": "pairs", "json": "{}"}, "max_length": 9}})
    assert learn_tokenizer("bytes", ["a"], vocabulary_size=300) == {"kind": "bytes"}


def test_predictions_and_comparison() -> None:
    target = target_of({"target": text_target(tokenizer={"kind": "bytes"}, max_length=8)})
    assert target is not None
    a, b = (ByteTokenizer().encode(letter)[0] for letter in "ab")
    ids = torch.tensor([[1, a, b, 2, 0], [1, b, b, a, b]])
    made = Generated(ids=ids, scores=torch.tensor([-0.5, -9.0]), lengths=torch.tensor([4, 5]))
    first, second = target.predict(made)
    assert (first.text, first.tokens, second.text) == ("ab", ["a", "b"], "bbab")  # type: ignore[union-attr]
    assert first.cells() == {"prediction": "ab", "score": "-0.5"}
    right, wrong = target.compare(made, torch.tensor([[1, a, b, 2], [1, a, 2, 0]]))
    assert (right.correct, wrong.correct, wrong.true) == (True, False, "a")
    assert wrong.loss > right.loss


def test_texts_are_ordered_by_the_probability_of_an_id_with_and_without_beams() -> None:
    """All ids have the same probability: no text is worse than another."""
    target = TextTarget(tokenizer=ByteTokenizer(), max_length=8)
    ids = torch.tensor([[1, 70, 2, 0, 0, 0], [1, 70, 70, 70, 70, 2]])
    new, lengths = torch.tensor([2.0, 5.0]), torch.tensor([3, 6])
    for power in (0.0, 0.5, 1.0):
        made = Generated(ids=ids, scores=-new / new**power, lengths=lengths, length_penalty=power)
        assert [one.loss for one in target.compare(made, ids)] == pytest.approx([1.0, 1.0])
