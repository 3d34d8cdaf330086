"""Words and their places, against the regular expression on the text, for any cut into pieces; dictionaries; alignments."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.modalities.texts.tokenizers import END, PAD, START, ByteTokenizer, PairTokenizer, train_pairs
from perceiver.targets.alignment import Alignment, alignment_of
from perceiver.targets.dictionary import Dictionary, learn_pairs
from perceiver.targets.words import Word, words_in, words_of

LETTERS = st.text(alphabet="aß1 -'.,€\n", max_size=20)


@given(text=LETTERS, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_words_do_not_depend_on_the_pieces(text: str, cuts: list[int]) -> None:
    raw = text.encode()
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:end] for start, end in pairwise(places)] or [raw]
    words = words_of(pieces)
    assert [word.text for word in words] == words_in(text)
    for word in words:
        assert word.text.encode() in b"".join(pieces[word.start : word.end])
        if word.end - word.start > 1:  # no piece is superfluous
            assert word.text.encode() not in b"".join(pieces[word.start + 1 : word.end])
            assert word.text.encode() not in b"".join(pieces[word.start : word.end - 1])


def test_pieces_of_tokenizers() -> None:
    text = "Zwei Männer mit T-Shirts, 北京."
    pairs = PairTokenizer(train_pairs([text] * 4, vocabulary_size=275))
    for tokenizer in (ByteTokenizer(), pairs):
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.pieces(ids)) == text.encode()
        assert tokenizer.pieces([START, PAD, END]) == [b""] * 3
        words = words_of(tokenizer.pieces([*ids, END, PAD]))
        assert [word.text for word in words] == ["Zwei", "Männer", "mit", "T-Shirts", ",", "北京", "."]
        for word in words:
            assert word.text in tokenizer.decode(ids[word.start : word.end])
    assert len(pairs.encode(text)) < len(ByteTokenizer().encode(text))
    assert [word.text for word in words_of([b"a", b"\xff"])] == ["a", "�"]


@given(
    texts=st.lists(
        st.tuples(st.lists(st.sampled_from("abcd"), max_size=4), st.lists(st.sampled_from("WXYZ"), max_size=4)), max_size=12
    ),
    least=st.integers(1, 3),
)
def test_pairs_are_each_others_best(texts: list[tuple[list[str], list[str]]], least: int) -> None:
    def dice(one: str, other: str) -> float:
        left = [one in source for source, _ in texts]
        right = [other.upper() in target for _, target in texts]
        both = sum(a and b for a, b in zip(left, right, strict=True))
        return 2 * both / (sum(left) + sum(right)) if both >= least else 0.0

    table = {(one, other): dice(one, other) for one in "abcd" for other in "wxyz"}
    for one, other in learn_pairs(texts, least_count=least, least_dice=0.5):
        own = table[one, other]
        assert own >= 0.5
        assert own == max(table[one, letter] for letter in "wxyz") == max(table[letter, other] for letter in "abcd")
    best = Counter(value for value in table.values() if value >= 0.5)
    if best and best[max(best)] == 1:  # without ties the best of all is found
        assert [*max(table, key=table.__getitem__)] in learn_pairs(texts, least_count=least, least_dice=0.5)


def test_only_unambiguous_occurrences_count() -> None:
    known = Dictionary.of({"modality": "text", "pairs": [["dog", "hund"], ["a", "ein"]]})
    assert known is not None
    source = [Word("A", 0, 1), Word("dog", 1, 3), Word("and", 3, 4), Word("a", 4, 5), Word("cat", 5, 6)]
    target = [Word("Ein", 0, 1), Word("Hund", 1, 2)]
    assert known.occurrences(source, target) == [(source[1], target[1])]
    assert known.occurrences(source, [*target, target[1]]) == []
    assert Dictionary.of(None) is None


def test_alignments_average_the_ids_of_a_word() -> None:
    weights = np.array([[0.1, 0.2, 0.3], [0.3, 0.0, 0.1], [0.5, 0.0, 0.0]])
    image = np.full((3, 1, 2), 0.2) * [[[1.0]], [[1.5]], [[1.25]]]
    words = (Word("Hunde", 0, 2), Word("da", 2, 3))
    found = alignment_of(words, {"text": weights, "image": image}, {"text": (Word("dogs", 0, 2), Word("there", 2, 3))})
    np.testing.assert_allclose(found.matrix("text"), [[0.3, 0.2], [0.5, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(found.maps["image"], [[[0.25, 0.25]], [[0.25, 0.25]]], rtol=1e-6)
    assert found.best("text") == ["dogs", "dogs"]
    assert found.plain()["inputs"]["image"] == {"share": [0.5, 0.5], "map": [[[0.25, 0.25]], [[0.25, 0.25]]]}
    with pytest.raises(ValueError, match=r"Alignment\.matrix: expected a text, one of \['text'\], got 'image'"):
        found.matrix("image")
    empty = alignment_of((), {"text": weights}, {"text": ()})
    assert empty.matrix("text").shape == (0, 0)
    assert empty.best("text") == []
    assert isinstance(empty, Alignment)
