"""Checks of batches and settings that several objectives share. Batches are checked in main memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from perceiver.samples.batch import Batch
from perceiver.tokens.masks import presence


def require_modality(batch: Batch) -> None:
    """Check by the masks that every sample has at least one modality; on a device this would synchronise.

    Raises:
        ValueError: for a sample without any modality; names it.
    """
    present = [presence(x, batch.masks.get(name)) for name, x in batch.inputs.items()]
    masks = [mask for mask in present if mask is not None]
    if len(masks) < len(present):  # a modality that all samples have
        return
    missing = ~torch.stack(masks).any(dim=0)
    if bool(missing.any()):
        index = int(missing.nonzero()[0])
        raise ValueError(
            f"sample {sample_name(batch.ids, index)!r}: expected a valid element in at least one of "
            f"{sorted(batch.inputs)}, but all masks are False. Leave the sample out, or correct its masks."
        )


def check_classes(batch: Batch, *, num_classes: int) -> None:
    """Check that the target of every sample is a class number.

    Raises:
        ValueError: for missing targets, or a target outside [0, num_classes); names the sample.
    """
    target = batch.target
    if target is None:
        raise ValueError("batch.target: expected one class number per sample, got None; the data has no labels.")
    if target.is_floating_point() or target.ndim != 1:
        raise ValueError(
            f"batch.target: expected one class number per sample ({batch.size},), got {target.dtype} "
            f"{tuple(target.shape)}. For a class per pixel, use task=segmentation."
        )
    outside = (target < 0) | (target >= num_classes)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise ValueError(
            f"target of sample {sample_name(batch.ids, index)!r}: expected a class number from 0 to {num_classes - 1}, got "
            f"{int(target[index])}. Correct the label, or the class names of the data module's spec."
        )


def check_class_settings(*, num_classes: int, label_smoothing: float) -> None:
    """Raise ValueError for fewer than two classes, or an invalid label smoothing."""
    if num_classes < 2:
        raise ValueError(f"task.num_classes: expected at least 2 classes, got {num_classes}.")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"task.label_smoothing: expected a number in [0, 1), got {label_smoothing}.")


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless there is one finite mean and one standard deviation above 0 for each output."""
    if not len(mean) == len(std) > 0 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise ValueError(
            "task.mean, task.std: expected a finite mean and a standard deviation above 0 for each output, got "
            f"{list(mean)} and {list(std)}."
        )


def sample_name(ids: Sequence[str], index: int) -> str:
    """Return the name of a sample for error messages."""
    return ids[index] if index < len(ids) else f"number {index} of its batch"
