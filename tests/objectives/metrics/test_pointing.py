"""Pointing: which steps predict a phrase, which cells lie in a box, and what the measures make of maps drawn by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.modalities.texts.tokenizers import ByteTokenizer, tokenizer_of
from perceiver.objectives.metrics.pointing import inside, pointing, steps_of
from perceiver.samples.grounding import Phrase


def phrase(start: int, end: int, *box: tuple[float, float], modality: str = "image") -> Phrase:
    return Phrase(start=start, end=end, modality=modality, box=box)


@given(st.text(min_size=1, max_size=12), st.data())
def test_the_steps_of_a_phrase_are_those_of_its_bytes(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    before, own = len(text[:start].encode()), len(text[start:end].encode())
    found = steps_of(phrase(start, end), ByteTokenizer().encode(text), ByteTokenizer())
    # A letter of several bytes appears with one of them; until then it is one U+FFFD.
    assert set(found) <= set(range(before, before + own))
    assert found or own > 1
    if text.isascii():
        assert found == list(range(before, before + own))


def test_the_steps_of_a_phrase_are_those_of_its_words() -> None:
    pytest.importorskip("tokenizers")
    from perceiver.modalities.texts.tokenizers import learn_tokenizer

    tokenizer = tokenizer_of(learn_tokenizer("pairs", ["a large seven left"] * 9, vocabulary_size=300))
    ids = tokenizer.encode("a large seven left")
    assert len(ids) == 4
    assert steps_of(phrase(8, 13), [*ids, 2, 0], tokenizer) == [2]
    assert steps_of(phrase(2, 13), ids, tokenizer) == [1, 2]


def test_cells_in_a_box() -> None:
    found = inside(((8, 16), (0, 5)), grid=(6, 4), extent=(24, 16))
    assert found.nonzero().tolist() == [[2, 0], [3, 0]]  # rows with middles 10 and 14, the column with the middle 2
    small = inside(((9, 10), (14, 15)), grid=(6, 4), extent=(24, 16))
    assert small.nonzero().tolist() == [[2, 3]]
    assert inside(((100, 300),), grid=(10,), extent=(400,)).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_measures_of_maps() -> None:
    maps = torch.zeros(4, 2, 2)
    maps[1] = torch.tensor([[0.5, 0.1], [0.1, 0.1]])
    maps[2] = torch.tensor([[0.1, 0.1], [0.3, 0.1]])
    ids = ByteTokenizer().encode("abcd")
    top_left, bottom_right = ((0, 5), (0, 5)), ((5, 10), (5, 10))
    grounding = [phrase(1, 2, *top_left), phrase(2, 3, *bottom_right), phrase(1, 3, *top_left)]
    absent = [phrase(0, 1, *top_left), phrase(1, 2, (0, 1), modality="audio")]
    found = pointing(
        {"image": maps}, grounding + absent, ids, tokenizer=ByteTokenizer(), shapes={"image": (1, 10, 10), "audio": (1, 5)}
    )
    assert [correct for correct, _ in found] == [1.0, 0.0, 1.0]
    assert [mass for _, mass in found] == pytest.approx([0.5 / 0.8, 0.1 / 0.6, 0.6 / 1.4])
