"""Prompts are parsed as they are written, and those held out are held out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.synthetic.captions.language import DIGITS, RELATIONS
from perceiver.data.synthetic.prompts.groups import DigitPromptGroups
from perceiver.data.synthetic.prompts.language import HELD_OUT, PAIR, PLACED, PLACES, WORDINGS, Request, parse, wordings_of

digits = st.integers(0, 9)
sizes = st.sampled_from([None, 0, 1])


@given(digit=digits, held_out=st.booleans(), data=st.data())
def test_single_digits(digit: int, held_out: bool, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(wordings_of(digit, held_out=held_out)))
    asked = Request(digits=(digit,), wording=name)
    assert parse(asked.text) == asked
    assert asked.held_out == held_out
    assert DigitPromptGroups()(asked.text) == ("held_out" if held_out else name)


@given(digit=digits, size=sizes, place=st.integers(0, 8))
def test_places(digit: int, size: int | None, place: int) -> None:
    asked = Request(digits=(digit,), sizes=(size,), place=place, wording=PLACED)
    assert asked.text.endswith(PLACES[place])
    assert parse(asked.text) == asked
    assert not asked.held_out


@given(first=digits, second=digits, one=sizes, other=sizes, relation=st.integers(0, 3))
def test_pairs(first: int, second: int, one: int | None, other: int | None, relation: int) -> None:
    asked = Request(digits=(first, second), sizes=(one, other), relation=relation, wording=PAIR)
    assert parse(asked.text) == asked
    group = DigitPromptGroups()(asked.text)
    assert group == ("held_out" if asked.held_out else RELATIONS[relation].replace(" ", "_"))
    assert asked.held_out == Request(digits=(second, first), sizes=(one, other), relation=relation, wording=PAIR).held_out


def test_english() -> None:
    assert [Request(digits=(digit,), wording="one_more").text for digit in (1, 8)] == [
        "one more than zero",
        "one more than seven",
    ]
    assert Request(digits=(8,), wording="one_less").text == "one less than nine"
    assert Request(digits=(8,), wording="article").text == "an eight"
    assert Request(digits=(8, 8), sizes=(None, 0), relation=3, wording=PAIR).text == "an eight below a small eight"


def test_every_digit_is_known_in_most_words_and_beside_most_digits() -> None:
    for digit in range(10):
        assert len(wordings_of(digit, held_out=False)) >= 7
        assert len(wordings_of(digit, held_out=True)) >= 1
        # The numerals are read in one wording at least, and the words in several.
        assert "digit_numeral" in wordings_of(digit, held_out=False)
        beside = [
            Request(digits=(digit, other), sizes=(None, None), relation=0, wording=PAIR).held_out for other in range(10)
        ]
        assert sum(beside) == 1
    assert "one_more" not in wordings_of(0, held_out=False)
    assert "one_less" not in wordings_of(9, held_out=False)
    assert set(HELD_OUT) <= set(WORDINGS)


@pytest.mark.parametrize(
    "text", ["", "seven of nine", "a huge seven in the middle", "one more than nine", "10", "a 7 left of a 3"]
)
def test_other_texts_are_no_prompts(text: str) -> None:
    assert parse(text) is None
    assert DigitPromptGroups()(text) is None
    assert text not in DIGITS
