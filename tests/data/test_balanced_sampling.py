"""Balanced sampling: rare classes as often as common ones."""

import torch

from perceiver.data.balanced_sampling import balanced_sampler


def test_every_class_that_occurs_has_the_same_share() -> None:
    labels = [0] * 90 + [2] * 10
    torch.manual_seed(0)
    drawn = torch.tensor(labels)[torch.tensor([index for _ in range(20) for index in balanced_sampler(labels)])]
    assert len(drawn) == 2000
    assert 0.45 < (drawn == 2).float().mean() < 0.55


def test_tensors_are_labels_too() -> None:
    weights = balanced_sampler(torch.tensor([0, 1, 1])).weights
    assert torch.equal(weights, balanced_sampler([0, 1, 1]).weights)
    assert weights.tolist() == [1.0, 0.5, 0.5]
