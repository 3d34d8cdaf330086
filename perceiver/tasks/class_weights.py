"""Weights of classes in a loss, for classes of unequal size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def weights_of_classes(
    weights: Sequence[float] | str | None, counts: Sequence[int] | None, num_classes: int
) -> Tensor | None:
    """The weight of each class `(num_classes,)`; None weighs all alike.

    Args:
        weights: a number for each class; "balanced": inverse to `counts`; or None.
        counts: how many training samples, or pixels, are of each class.
        num_classes: how many there are.

    Raises:
        ValueError: none of these, or balanced without counts.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"task.class_weights: expected null, balanced or a list of numbers, got {weights!r}.")
        if counts is None or len(counts) != num_classes:
            raise ValueError(
                f"task.class_weights=balanced: expected class_counts, the training samples of each of the {num_classes} "
                f"classes, got {counts}. The data module says them in its spec, target.counts; if it does not, give the "
                "weights as a list."
            )
        samples = torch.tensor(counts, dtype=torch.float32)
        balanced = samples.sum() / ((samples > 0).sum() * samples)
        return torch.where(samples > 0, balanced, torch.zeros_like(balanced))  # a class without samples weighs nothing
    given = torch.tensor([float(weight) for weight in weights])
    if len(given) != num_classes or not bool(given.isfinite().all()) or bool((given < 0).any()) or not bool(given.sum() > 0):
        raise ValueError(
            f"task.class_weights: expected {num_classes} numbers of at least 0, one per class and one of them above 0, got "
            f"{list(weights)}."
        )
    return given
