"""Drawing training samples so that rare classes come as often as common ones."""

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_weights(labels: Sequence[int] | Tensor) -> Tensor:
    """`(samples,)` float64: drawn in proportion, with replacement, every class that occurs comes equally often on average.

    Args:
        labels: `(samples,)`, classes from 0.
    """
    classes = torch.as_tensor(labels)
    return torch.bincount(classes).to(torch.float64).reciprocal()[classes]
