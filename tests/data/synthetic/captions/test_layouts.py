"""Layouts: digits inside the canvas, apart, from left to right, in clear relations; all numbers of digits."""

from itertools import pairwise

import pytest
import torch

from perceiver.data.synthetic.captions.layouts import draw_layouts


def test_layouts_are_clear() -> None:
    found = draw_layouts(600, canvas=48, sides=(13, 20), generator=torch.Generator().manual_seed(0))
    sizes = found.present.sum(dim=1)
    assert [int((sizes == size).sum()) > 150 for size in (1, 2, 3)] == [True] * 3
    assert 0.35 < float(found.large[sizes == 1, 0].float().mean()) < 0.65
    assert found.large[sizes == 3].all(dim=1).any()  # rare, since there is little room
    for row, size in enumerate(sizes.tolist()):
        assert found.present[row, :size].all()
        occupied = torch.zeros(48, 48)
        centres = []
        for top, left, large in zip(found.top[row, :size], found.left[row, :size], found.large[row, :size], strict=True):
            side = 20 if large else 13
            assert min(top, left) >= 0
            assert max(top, left) + side <= 48
            # A pixel of room on one side: squares side by side would touch.
            occupied[top : top + side + 1, left : left + side + 1] += 1
            centres.append((float(top) + side / 2, float(left) + side / 2))
        assert occupied.max() == 1
        for (row_one, column_one), (row_two, column_two) in pairwise(centres):
            right, down = column_two - column_one, abs(row_two - row_one)
            assert right > 3
            assert abs(right - down) > 3


def test_the_generator_determines_layouts() -> None:
    one, other, third = (
        draw_layouts(20, canvas=48, sides=(13, 20), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.top, other.top)
    assert torch.equal(one.large, other.large)
    assert not torch.equal(one.top, third.top)


def test_a_canvas_that_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"canvas: 24 pixels are too few for 3 digits of up to 20 pixels"):
        draw_layouts(10, canvas=24, sides=(13, 20), generator=torch.Generator().manual_seed(0))
