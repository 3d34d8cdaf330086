"""Drawing training samples so that rare classes come as often as common ones."""

from collections.abc import Sequence

import torch
from torch.utils.data import WeightedRandomSampler


def balanced_sampler(labels: Sequence[int] | torch.Tensor) -> WeightedRandomSampler:
    """Draws as many samples as there are, with replacement, every class that occurs equally often on average.

    Args:
        labels: `(samples,)`, classes from 0.
    """
    classes = torch.as_tensor(labels)
    weights = torch.bincount(classes).to(torch.float64).reciprocal()[classes]
    return WeightedRandomSampler(weights.tolist(), num_samples=len(classes), replacement=True)
