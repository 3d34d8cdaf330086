"""The language of scenes: captions are parsed back, and true exactly if what they state can be found in the scene."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.synthetic.captions.judge import SceneJudge
from perceiver.data.synthetic.captions.language import (
    DIGITS,
    LONGEST,
    RELATIONS,
    SIZES,
    DrawnDigit,
    describe,
    digit_words,
    is_true,
    parse,
)
from perceiver.samples.grounding import Phrase


def drawn(digit: int, large: bool, row: float, column: float) -> DrawnDigit:
    return DrawnDigit(digit=digit, large=large, box=((row - 5, row + 5), (column - 4, column + 4)))


places = st.integers(0, 40)
scenes = st.lists(st.builds(drawn, st.integers(0, 9), st.booleans(), places, places), min_size=1, max_size=3)


@given(scenes)
def test_captions_are_parsed_back(scene: list[DrawnDigit]) -> None:
    text = describe(scene)
    found = parse(text)
    assert found is not None
    assert found.objects == tuple((one.digit, one.large) for one in scene)
    assert len(found.relations) == len(scene) - 1
    assert [digit for digit, _, _ in digit_words(text)] == [one.digit for one in scene]
    assert len(text) <= LONGEST
    assert all(text[start:end] == DIGITS[digit] for digit, start, end in digit_words(text))


@given(scenes, st.data())
def test_truth(scene: list[DrawnDigit], data: st.DataObject) -> None:
    """Against a plain search: any choice of digits that agrees with every statement."""
    count = data.draw(st.integers(1, 3))
    digits = st.sampled_from([*scene, drawn(1, True, 0, 0)])
    objects = [data.draw(digits) for _ in range(count)]
    relations = [data.draw(st.sampled_from(RELATIONS)) for _ in range(count - 1)]
    text = f"a {SIZES[objects[0].large]} {DIGITS[objects[0].digit]}"
    for stated, one in zip(relations, objects[1:], strict=True):
        text += f" {stated} a {SIZES[one.large]} {DIGITS[one.digit]}"

    def agrees(chosen: tuple[DrawnDigit, ...]) -> bool:
        if any((one.digit, one.large) != (other.digit, other.large) for one, other in zip(chosen, objects, strict=True)):
            return False
        for stated, first, second in zip(relations, chosen[:-1], chosen[1:], strict=True):
            axis, sign = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "below": (0, -1)}[stated]
            if sign * (second.centre[axis] - first.centre[axis]) <= 3:
                return False
        return True

    assert is_true(text, scene) == any(agrees(chosen) for chosen in permutations(scene, count))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a large",
        "large seven",
        "a large seven left of",
        "a huge seven",
        "a large seven a small one",
        "A large seven",
        "a large seven.",
        "a large seven left of a small one left of a small one left of a small one",
    ],
)
def test_other_texts_are_no_captions(text: str) -> None:
    assert parse(text) is None
    assert not is_true(text, [drawn(7, True, 10, 10), drawn(1, False, 10, 30)])


SCENE = [drawn(7, True, 10, 10), drawn(1, False, 25, 30)]  # the seven is to the left and above
TRUTH = "a large seven left of a small one"


@pytest.mark.parametrize(
    ("text", "digits", "true"),
    [
        (TRUTH, 1.0, 1.0),
        ("a large seven above a small one", 1.0, 1.0),  # another relation that holds
        ("a small one right of a large seven", 0.0, 1.0),  # true in another order
        ("a small one", 0.0, 1.0),  # leaves out the seven
        ("a large seven below a small one", 1.0, 0.0),
        ("a small seven left of a small one", 1.0, 0.0),
        ("a large seven left of a small two", 0.5, 0.0),
        ("a large seven left of a large seven", 0.5, 0.0),  # there is only one
        ("seven one", 1.0, 0.0),  # not of the language
        ("", 0.0, 0.0),
    ],
)
def test_judge(text: str, digits: float, true: float) -> None:
    seen = [
        Phrase(start=start, end=end, modality="image", box=one.box)
        for (_, start, end), one in zip(digit_words(TRUTH), SCENE, strict=True)
    ]
    assert SceneJudge()(text, TRUTH, seen) == {"digit_accuracy": (digits, 2.0), "truthfulness": (true, 1.0)}


def test_the_judge_needs_boxes() -> None:
    with pytest.raises(ValueError, match=r"expected a caption of a scene, with a box for each of its digits"):
        SceneJudge()(TRUTH, TRUTH, [])
