"""Stratified splits: sizes, proportions, repeatability."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.loading.splits import random_split, stratified_split


@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_split_is_a_partition_in_proportion(labels: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels) - 1))
    target = torch.tensor(labels)
    kept, taken = stratified_split(target, size=size, seed=data.draw(st.integers(0, 5)), name="size")
    assert len(taken) == size
    assert sorted([*kept.tolist(), *taken.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        share = labels.count(label) * size / len(labels)
        assert abs(int((target[taken] == label).sum()) - share) < 1


def test_split_repeats_whatever_the_training_seed_and_differs_by_split_seed() -> None:
    labels = torch.arange(200) % 10
    torch.manual_seed(1)
    first = stratified_split(labels, size=50, seed=0, name="size")[1]
    torch.manual_seed(2)
    assert torch.equal(first, stratified_split(labels, size=50, seed=0, name="size")[1])
    assert not torch.equal(first, stratified_split(labels, size=50, seed=1, name="size")[1])


def test_split_never_changes() -> None:
    """Published figures refer to this split."""
    taken = stratified_split(torch.arange(20) % 2, size=6, seed=0, name="size")[1]
    assert taken.tolist() == [1, 8, 10, 17, 18, 19]


@pytest.mark.parametrize("size", [-1, 0, 10, 11])
def test_impossible_size(size: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.validation_size: expected 1 to 9, .* 10 labelled .* got {size}\."):
        stratified_split(torch.arange(10), size=size, seed=0, name="data.validation_size")


@pytest.mark.parametrize(
    ("size", "fraction", "taken"), [(10, 0.25, 2), (10, 0.0, 1), (2, 0.1, 1), (7, 0.5, 4), (40, 0.1, 4)]
)
def test_a_random_split_is_a_share(size: int, fraction: float, taken: int) -> None:
    stay, out = random_split(size, fraction=fraction, seed=3, where="data.root")
    assert len(out) == taken
    assert sorted(stay + out) == list(range(size))
    assert stay == sorted(stay)
    assert out == sorted(out)
    assert (stay, out) == random_split(size, fraction=fraction, seed=3, where="data.root")


def test_a_random_split_never_changes() -> None:
    assert random_split(10, fraction=0.3, seed=0, where="x") == ([0, 1, 3, 5, 6, 7, 9], [2, 4, 8])
    assert random_split(10, fraction=0.3, seed=1, where="x")[1] != [2, 4, 8]
    for size, fraction in ((1, 0.1), (4, 1.0), (0, 0.5)):
        with pytest.raises(ValueError, match=rf"data\.root: expected two or more samples, .* got {size}"):
            random_split(size, fraction=fraction, seed=0, where="data.root")


def test_quotas_go_to_the_largest_remainders_and_ties_to_the_lower_class() -> None:
    labels = torch.tensor([0] * 3 + [1] * 3 + [2] * 4)
    counts = [
        torch.bincount(labels[stratified_split(labels, size=size, seed=0, name="x")[1]]).tolist() for size in range(1, 10)
    ]
    assert counts[:4] == [[0, 0, 1], [1, 0, 1], [1, 1, 1], [1, 1, 2]]
    assert [sum(one) for one in counts] == list(range(1, 10))
