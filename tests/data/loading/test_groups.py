"""Splits that divide no group."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data.loading.groups import grouped_split, groups_of_paths, require_undivided, split_off
from perceiver.data.loading.splits import stratified_split

NAME = "data.validation_fraction"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=4, max_size=60).filter(
        lambda samples: len({group for _, group in samples}) > 1
    ),
    st.floats(0.05, 0.9),
    st.integers(0, 3),
)
def test_groups_stay_whole_on_both_sides(samples: list[tuple[int, int]], fraction: float, seed: int) -> None:
    groups = [str(group) for _, group in samples]
    size = max(1, int(fraction * len(samples)))
    kept, taken = grouped_split(torch.tensor([label for label, _ in samples]), groups, size=size, seed=seed, name=NAME)
    assert sorted([*kept.tolist(), *taken.tolist()]) == list(range(len(samples)))
    assert {groups[index] for index in kept} & {groups[index] for index in taken} == set()
    assert len(kept)
    assert len(taken)


def test_size_and_proportions_are_close_for_many_groups() -> None:
    generator = np.random.RandomState(0)
    groups = generator.choice(50, size=1000)
    labels = (generator.rand(1000) < np.where(groups % 2, 0.9, 0.2)).astype(int)
    for seed in range(3):
        _, taken = split_off(torch.from_numpy(labels), size=150, seed=seed, name=NAME, groups=[str(one) for one in groups])
        assert 135 <= len(taken) <= 165
        assert abs(labels[taken].mean() - labels.mean()) < 0.05


def test_the_seed_decides_among_equal_groups() -> None:
    labels, groups = torch.arange(40) % 2, [str(number // 4) for number in range(40)]
    splits = [tuple(grouped_split(labels, groups, size=8, seed=seed, name=NAME)[1].tolist()) for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len(set(splits)) > 2


def test_the_group_nearest_in_size_is_taken_if_all_are_too_large() -> None:
    labels, groups = torch.zeros(30, dtype=torch.int64), ["a"] * 12 + ["b"] * 8 + ["c"] * 10
    kept, taken = grouped_split(labels, groups, size=1, seed=0, name=NAME)
    assert taken.tolist() == list(range(12, 20))
    assert len(kept) == 22


def test_without_groups_samples_are_split_one_by_one() -> None:
    labels = torch.arange(40) % 4
    for ours, theirs in zip(
        split_off(labels, size=8, seed=3, name=NAME), stratified_split(labels, size=8, seed=3, name=NAME), strict=True
    ):
        assert ours.tolist() == theirs.tolist()


def test_a_single_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"data\.validation_fraction: expected two or more groups .* belong to 'anna'"):
        grouped_split(torch.zeros(4, dtype=torch.int64), ["anna"] * 4, size=1, seed=0, name=NAME)


def test_groups_in_two_splits_are_named() -> None:
    require_undivided({"train": ["a", "a", "b"], "val": ["c"], "test": []}, name="my.csv")
    with pytest.raises(ValueError, match=r"data\.group: my\.csv has the group 'b' in both train and test"):
        require_undivided({"train": ["a", "b"], "val": ["c"], "test": ["b"]}, name="my.csv")


def test_groups_of_paths() -> None:
    paths = ["train/cat/anna_7.png", "val/dog/bert_12.png"]
    assert groups_of_paths(paths, r"/([a-z]+)_\d+") == ["anna", "bert"]
    assert groups_of_paths(paths, "cat|dog") == ["cat", "dog"]
    assert groups_of_paths(paths, r"cat/(\w+)_|dog/(\w+)_") == ["anna", "bert"]
    with pytest.raises(ValueError, match=r"data\.group: the pattern 'cat' matches no part of the path"):
        groups_of_paths(paths, "cat")
    with pytest.raises(ValueError, match=r"data\.group: expected a regular expression for paths, got '\(': "):
        groups_of_paths(paths, "(")
