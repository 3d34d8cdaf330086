"""Sampled places: which, how often, and that sums over them are those over all places on average."""

import pytest
import torch

from perceiver.objectives.dense import draw_places


@pytest.mark.parametrize("at_most", [1, 3, 20])
def test_sums_over_drawn_places_are_those_over_all_on_average(at_most: int) -> None:
    valid = torch.rand(4, 5, 6) < torch.tensor([1.0, 0.7, 0.1, 0.0])[:, None, None]
    values = torch.where(valid, torch.randn(4, 5, 6), torch.nan)
    expected = values[valid].sum()
    sums = []
    for _ in range(500):
        places = draw_places(valid, at_most=at_most)
        assert places.index is not None
        assert places.index.shape[1] <= at_most
        taken = places.taken(values)
        assert bool(taken[places.weight > 0].isfinite().all()), "only valid ones count"
        torch.testing.assert_close(places.weight.sum(dim=1), valid.flatten(1).sum(dim=1).float())
        sums.append(torch.where(places.weight > 0, taken * places.weight, 0.0).sum())
    drawn = torch.stack(sums)
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / len(sums) ** 0.5 + 1e-4
    if at_most == 1:
        assert drawn.std() > 1, "a test without chance tests nothing"


def test_all_places_where_none_are_left_out() -> None:
    valid = torch.rand(2, 3, 4) < 0.5
    for at_most in (None, 12, 100):
        places = draw_places(valid, at_most=at_most)
        assert places.index is None
        assert torch.equal(places.weight, valid.flatten(1).float())


def test_places_of_a_sample_are_all_different() -> None:
    places = draw_places(torch.ones(3, 8, 8, dtype=torch.bool), at_most=40)
    assert places.index is not None
    assert all(len(row.unique()) == 40 for row in places.index)
