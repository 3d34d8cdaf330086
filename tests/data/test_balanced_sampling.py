"""Balanced drawing: rare classes as often as common ones."""

import torch

from perceiver.data.balanced_sampling import balanced_weights


def test_every_class_weighs_the_same() -> None:
    labels = [0] * 90 + [2] * 10
    weights = balanced_weights(labels)
    classes = torch.tensor(labels)
    assert weights.shape == (100,)
    assert torch.isclose(weights[classes == 0].sum(), weights[classes == 2].sum())
