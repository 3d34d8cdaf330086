"""Texts as targets: ids with start and end, and predictions of generated sequences."""

import pytest
import torch

from perceiver.generation import Generated
from perceiver.modalities.tokenizers import ByteTokenizer
from perceiver.targets.kinds import target_of
from perceiver.targets.text import TextTarget, text_target


def test_ids_begin_and_end() -> None:
    target = TextTarget(tokenizer=ByteTokenizer(), max_length=5)
    ids = target.ids("abc", where="row 1")
    assert (int(ids[0]), int(ids[-1])) == (1, 2)
    assert ByteTokenizer().decode(ids.tolist()) == "abc"
    with pytest.raises(ValueError, match=r"row 1: its text has 4 ids, more than max_length - 2 = 3\. Raise max_length"):
        target.ids("abcd", where="row 1")
    cut = TextTarget(tokenizer=ByteTokenizer(), max_length=5, truncate=True).ids("abcd", where="row 1")
    assert cut.tolist() == ids.tolist()


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
