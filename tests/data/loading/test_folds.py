"""Folds of a cross-validation: disjoint, complete, stratified, and the same every time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from perceiver.data.loading.folds import Fold


def held_out(labels: Tensor, *, folds: int, seed: int = 0, groups: list[str] | None = None) -> list[list[int]]:
    """The samples of each fold; all others are the rest."""
    found = []
    for number in range(folds):
        rest, taken = Fold(number=number, of=folds).split(labels, seed=seed, name="samples", groups=groups)
        assert sorted([*rest.tolist(), *taken.tolist()]) == list(range(len(labels)))
        assert rest.tolist() == sorted(rest.tolist())
        assert taken.tolist() == sorted(taken.tolist())
        found.append(taken.tolist())
    return found


@given(st.lists(st.integers(0, 3), min_size=12, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_every_sample_is_in_one_fold_and_every_class_in_all_alike(labels: list[int], folds: int, seed: int) -> None:
    found = held_out(torch.tensor(labels), folds=folds, seed=seed)
    assert sorted(sample for fold in found for sample in fold) == list(range(len(labels)))
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        counts = [sum(labels[sample] == label for sample in fold) for fold in found]
        assert max(counts) - min(counts) <= 1


def test_class_counts_are_those_of_scikit_learn() -> None:
    labels = np.random.RandomState(1).choice(4, size=200, p=[0.5, 0.3, 0.15, 0.05])
    ours = held_out(torch.from_numpy(labels), folds=5)
    theirs = [test for _, test in StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)]
    for label in range(4):
        mine = sorted(int((labels[fold] == label).sum()) for fold in ours)
        assert mine == sorted(int((labels[fold] == label).sum()) for fold in theirs)


def test_folds_depend_on_the_seed_alone() -> None:
    labels = torch.arange(100) % 3
    assert held_out(labels, folds=4) == held_out(labels, folds=4)
    assert held_out(labels, folds=4) != held_out(labels, folds=4, seed=1)
    groups = [f"patient {number // 4}" for number in range(100)]
    assert held_out(labels, folds=4, groups=groups) == held_out(labels, folds=4, groups=groups)
    assert held_out(labels, folds=4, groups=groups) != held_out(labels, folds=4, seed=1, groups=groups)


def test_folds_stay_the_same_between_versions() -> None:
    assert held_out(torch.tensor([0, 1] * 5), folds=3) == [[1, 2, 5, 6], [0, 7, 8], [3, 4, 9]]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=20, max_size=80), st.integers(0, 3))
def test_no_group_is_divided(samples: list[tuple[int, int]], seed: int) -> None:
    labels, groups = torch.tensor([label for label, _ in samples]), [f"g{group}" for _, group in samples]
    folds = min(3, len(set(groups)))
    if folds < 2:
        return
    found = held_out(labels, folds=folds, seed=seed, groups=groups)
    assert sorted(sample for fold in found for sample in fold) == list(range(len(labels)))
    for group in set(groups):
        assert sum(any(groups[sample] == group for sample in fold) for fold in found) == 1


def test_grouped_folds_keep_the_proportions_of_classes() -> None:
    generator = np.random.RandomState(0)
    groups = generator.choice(60, size=1200)
    labels = (generator.rand(1200) < np.where(groups % 2, 0.8, 0.1)).astype(int)
    for fold in held_out(torch.from_numpy(labels), folds=5, groups=[str(group) for group in groups]):
        assert abs(labels[fold].mean() - labels.mean()) < 0.03
        assert 200 <= len(fold) <= 280


def test_each_group_of_a_single_class_of_few_samples_has_a_fold() -> None:
    labels, groups = torch.zeros(6, dtype=torch.int64), ["a", "a", "b", "c", "c", "c"]
    assert sorted(map(tuple, held_out(labels, folds=3, groups=groups))) == [(0, 1), (2,), (3, 4, 5)]
    assert len(held_out(torch.arange(6), folds=3, groups=groups)) == 3


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (1, 0, r"data\.folds: expected 2 or more, or null, got 1"),
        (5, None, r"data\.folds=5: expected data\.fold, .* 0 to 4; mode=cross_validate runs all folds"),
        (None, 2, r"data\.fold=2: expected data\.folds"),
        (5, 5, r"data\.fold: expected 0 to 4, because there are 5 folds, got 5"),
        (5, -1, r"data\.fold: expected 0 to 4"),
    ],
)
def test_settings_that_choose_no_fold(folds: int | None, fold: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fold.chosen(folds=folds, fold=fold)


def test_too_many_folds() -> None:
    assert Fold.chosen(folds=None, fold=None) is None
    fold = Fold.chosen(folds=4, fold=3)
    assert fold is not None
    with pytest.raises(ValueError, match=r"data\.folds: expected 2 to 3, the number of samples of my\.csv, got 4"):
        fold.split(torch.zeros(3, dtype=torch.int64), seed=0, name="my.csv")
    with pytest.raises(ValueError, match=r"data\.folds: expected 2 to 2, the number of groups \(data\.group\) of my\.csv"):
        fold.split(torch.zeros(8, dtype=torch.int64), seed=0, name="my.csv", groups=list("aaabbbbb"))
