"""Canvases: digits inside, apart, in the relation or at the place that their prompts name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.loading.images import LabelledImages
from perceiver.data.synthetic.captions.glyphs import LARGE, SMALL, Glyphs
from perceiver.data.synthetic.captions.language import MARGIN, RELATIONS, relation
from perceiver.data.synthetic.prompts.language import is_held_out_pair, parse
from perceiver.data.synthetic.prompts.scenes import CanvasPainter, fixed_canvases, placed, prompts_of, related


def painter(num_digits: int, *, canvas: int = 40) -> CanvasPainter:
    """Digits that are filled squares, whose brightness is their class."""
    pixels = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    pixels[:, :, 4:24, 4:24] = (100 + 10 * labels).to(torch.uint8)[:, None, None, None]
    images = LabelledImages(pixels=pixels, labels=labels, ids="squares", numbers=torch.arange(40))
    return CanvasPainter(glyphs=Glyphs.of(images), canvas=canvas, num_digits=num_digits)


@given(canvas=st.integers(40, 56), seed=st.integers(0, 99))
def test_relations_hold(canvas: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    asked = torch.arange(4).repeat(16)
    large = torch.rand(64, 2, generator=generator) < 0.5
    top, left = related(asked, large, canvas=canvas, generator=generator)
    side = torch.where(large, LARGE, SMALL)
    for corner in (top, left):
        assert bool(((corner >= 0) & (corner + side <= canvas)).all())
    apart = [
        (corner[:, 0] + side[:, 0] <= corner[:, 1]) | (corner[:, 1] + side[:, 1] <= corner[:, 0]) for corner in (top, left)
    ]
    assert bool((apart[0] | apart[1]).all())
    middle = torch.stack([top + side / 2, left + side / 2], dim=-1)
    for row in range(64):
        first, second = ((float(one[0]), float(one[1])) for one in middle[row])
        assert relation(first, second) == RELATIONS[int(asked[row])]
        down, right = abs(first[0] - second[0]), abs(first[1] - second[1])
        assert abs(down - right) >= MARGIN


@given(canvas=st.integers(40, 56), seed=st.integers(0, 99))
def test_places_hold(canvas: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    asked = torch.arange(9).repeat(8)
    large = torch.rand(72, 2, generator=generator) < 0.5
    top, left = placed(asked, large, canvas=canvas, generator=generator)
    side = torch.where(large, LARGE, SMALL)
    thirds = [((corner + side / 2)[:, 0] * 3 / canvas) for corner in (top, left)]
    rounding = 1.5 / canvas * 3  # of the corner to whole pixels
    for found, wanted in zip(thirds, (asked // 3, asked % 3), strict=True):
        assert bool(((found >= wanted - rounding) & (found <= wanted + 1 + rounding)).all())


@pytest.mark.parametrize("num_digits", [1, 2])
def test_truth_is_what_prompts_ask_for_and_what_is_drawn(num_digits: int) -> None:
    split = fixed_canvases(painter(num_digits), ids="x", size=200, held_out_share=0.3, seed=0)
    batch = split.__getitems__(range(200))
    assert split.texts is not None
    assert split.canvases is not None
    assert batch.target is not None
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    held_out = 0
    for row, text in enumerate(split.texts):
        asked = parse(text)
        assert asked is not None
        held_out += asked.held_out
        first, second, first_size, second_size, place, between = batch.target[row].tolist()
        assert asked.digits == ((first, second) if num_digits == 2 else (first,))
        assert asked.sizes == tuple(None if one < 0 else one for one in (first_size, second_size)[:num_digits])
        assert (-1 if asked.place is None else asked.place) == place
        assert (-1 if asked.relation is None else asked.relation) == between
        found = {round(255 * value) for value in image[row].unique().tolist()} - {0}
        assert found == {100 + 10 * digit for digit in asked.digits}, "the squares of these digits, and no others"
        for number, size in enumerate((first_size, second_size)):
            assert size in (-1, int(split.canvases.large[row, number]))
    assert held_out > 20


def test_training_shows_no_held_out_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    canvases = painter(2).draw(500, held_out_share=0.0, generator=generator)
    labels = painter(2).glyphs.labels[canvases.numbers]
    assert not any(is_held_out_pair(*pair) for pair in labels.tolist())
    held_out = painter(2).draw(50, held_out_share=1.0, generator=generator)
    assert all(is_held_out_pair(*pair) for pair in painter(2).glyphs.labels[held_out.numbers].tolist())
    texts = prompts_of(
        painter(1).draw(500, held_out_share=0.0, generator=generator), held_out_share=0.0, generator=generator
    )
    asked = [parse(text) for text in texts]
    assert not any(one is None or one.held_out for one in asked)
    assert sum(one is not None and one.place is not None for one in asked) > 150


def test_digits_without_the_asked_pairs_are_an_error() -> None:
    sevens = painter(2)
    sevens.glyphs.labels[:] = 7
    with pytest.raises(ValueError, match="ten digits"):
        sevens.draw(4, held_out_share=1.0, generator=None)
