"""Balanced sampling: rare classes as often as common ones."""

import torch

from perceiver.data.loading.balanced_sampling import balanced_weights
from perceiver.data.loading.order import TrainingOrder


def test_every_class_that_occurs_has_the_same_share() -> None:
    labels = [0] * 90 + [2] * 10
    order = TrainingOrder(size=100, seed=0, weights=balanced_weights(labels))
    drawn = []
    for epoch in range(20):
        order.set_epoch(epoch)
        drawn += list(order)
    assert len(drawn) == 2000
    assert 0.45 < (torch.tensor(labels)[torch.tensor(drawn)] == 2).float().mean() < 0.55


def test_tensors_are_labels_too() -> None:
    weights = balanced_weights(torch.tensor([0, 1, 1]))
    assert torch.equal(weights, balanced_weights([0, 1, 1]))
    assert weights.tolist() == [1.0, 0.5, 0.5]
