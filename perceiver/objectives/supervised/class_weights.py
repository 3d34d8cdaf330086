"""Weights of classes and labels in a loss, for imbalanced data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def weights_of_classes(
    weights: Sequence[float] | str | None, counts: Sequence[int] | None, num_classes: int
) -> Tensor | None:
    """Return the weight of each class `(num_classes,)`, or None for equal weights.

    Args:
        weights: a number per class; "balanced": inverse to `counts`; or None.
        counts: number of training samples, or pixels, per class.
        num_classes: number of classes.

    Raises:
        ValueError: for invalid weights, or "balanced" without counts.
    """
    if _balanced("class_weights", weights):
        if counts is None or len(counts) != num_classes:
            raise ValueError(
                "task.class_weights=balanced: expected class_counts, the number of training samples in each of the "
                f"{num_classes} classes, got {counts}. They are usually target.counts of the data module's spec. If "
                "it has none, give the weights as a list."
            )
        samples = torch.tensor(counts, dtype=torch.float32)
        balanced = samples.sum() / ((samples > 0).sum() * samples)
        return torch.where(samples > 0, balanced, torch.zeros_like(balanced))  # a class without samples has weight 0
    given = _numbers(weights)
    if given is not None and not (_are_finite(given, num_classes) and bool((given >= 0).all()) and bool(given.sum() > 0)):
        raise ValueError(
            f"task.class_weights: expected {num_classes} numbers of at least 0, one per class and at least one above "
            f"0, got {given.tolist()}."
        )
    return given


def weights_of_positives(
    weights: Sequence[float] | str | None, counts: Sequence[int] | None, num_samples: int | None, num_classes: int
) -> Tensor | None:
    """Return the weight of positive samples relative to negative samples, `(num_classes,)`, or None for equal weights.

    Args:
        weights: a number per label; "balanced": (negatives) / (positives), 1 where either is zero; or None.
        counts: number of positive training samples per label.
        num_samples: number of training samples.
        num_classes: number of labels.

    Raises:
        ValueError: for invalid weights, or "balanced" without counts.
    """
    if _balanced("positive_weights", weights):
        if counts is None or num_samples is None or len(counts) != num_classes:
            raise ValueError(
                "task.positive_weights=balanced: expected positive_counts, the number of training samples with each "
                f"of the {num_classes} labels, and num_samples, got {counts} and {num_samples}. They are usually "
                "target.positives and target.samples of the data module's spec. If it has none, give the weights as "
                "a list."
            )
        positives = torch.tensor(counts, dtype=torch.float32)
        ratio = (num_samples - positives) / positives.clamp(min=1)
        # A label that is always or never positive needs no balance; a weight of 0 would disable learning it.
        return torch.where((positives > 0) & (ratio > 0), ratio, torch.ones_like(ratio))
    given = _numbers(weights)
    if given is not None and not (_are_finite(given, num_classes) and bool((given > 0).all())):
        raise ValueError(
            f"task.positive_weights: expected {num_classes} numbers above 0, one per label, got {given.tolist()}."
        )
    return given


def _balanced(name: str, weights: Any) -> bool:
    if isinstance(weights, str) and weights != "balanced":
        raise ValueError(f"task.{name}: expected null, balanced or a list of numbers, got {weights!r}.")
    return isinstance(weights, str)


def _numbers(weights: Any) -> Tensor | None:
    return None if weights is None else torch.tensor([float(weight) for weight in weights])


def _are_finite(given: Tensor, count: int) -> bool:
    return len(given) == count and bool(given.isfinite().all())
