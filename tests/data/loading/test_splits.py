"""Stratified splits: sizes, proportions, repeatability."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.loading.splits import stratified_split


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
