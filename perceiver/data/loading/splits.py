"""Splits that are the same on every machine and for every training seed, and subsets of labelled samples."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Lower-case names of splits in folders and cells, and the split that each stands for."""

SPLIT_WORDS = {**{name: name for name in SPLIT_NAMES}, "eval": "test", "evaluation": "test"}
"""Words that name a split in the names of files, as for the library `datasets`, and the name of the split."""


def split_words(name: str) -> list[str]:
    """Return the splits that words in the name of a file stand for, in order.

    >>> split_words("squad_train.parquet")
    ['train']
    """
    return [SPLIT_WORDS[word] for word in re.split("[^a-z]", name.lower()) if word in SPLIT_WORDS]


def stratified_split(
    labels: Int[Tensor, "samples"], *, size: int, seed: int, name: str
) -> tuple[Int[Tensor, "rest"], Int[Tensor, "size"]]:
    """Take out `size` samples, each class in proportion to its frequency.

    Args:
        labels: the class of every sample.
        size: number of samples to take out, at least 1; at least 1 stays.
        seed: seed of the split; not the training seed.
        name: argument that `size` came from, for the error message.

    Returns:
        Indices of the samples that stay and of those taken out, both ascending.

    Raises:
        ValueError: `size` leaves nothing on one side.
    """
    num_samples = len(labels)
    if not 1 <= size < num_samples:
        raise ValueError(
            f"{name}: expected 1 to {num_samples - 1}, because there are {num_samples} labelled samples to split; got "
            f"{size}."
        )
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    shares = counts * size / num_samples
    quotas = np.floor(shares).astype(int)
    # The samples lost to rounding down go to the largest remainders, and in ties to the lower class.
    missing = size - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:missing]] += 1

    # NumPy guarantees the stream of RandomState permanently; neither default_rng nor scikit-learn does.
    order = np.random.RandomState(seed).permutation(num_samples)
    ordered_labels = labels.numpy()[order]
    taken = np.zeros(num_samples, dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        taken[order[ordered_labels == label][:quota]] = True
    return torch.from_numpy(np.flatnonzero(~taken)), torch.from_numpy(np.flatnonzero(taken))


def random_split(size: int, *, fraction: float, seed: int, where: object) -> tuple[list[int], list[int]]:
    """Take out a share of `size` samples, at least one, regardless of their targets.

    Args:
        size: number of samples.
        fraction: share to take out.
        seed: seed of the split; not the training seed.
        where: place of the samples, for the error message.

    Returns:
        Indices of the samples that stay and of those taken out, both ascending.

    Raises:
        ValueError: nothing would stay.
    """
    taken = max(1, round(fraction * size))
    if taken >= size:
        raise ValueError(f"{where}: expected two or more samples, some of them for validation, got {size}.")
    # NumPy guarantees the stream of RandomState permanently.
    order = np.random.RandomState(seed).permutation(size)
    return sorted(order[taken:].tolist()), sorted(order[:taken].tolist())


def labelled_subset(labels: Sequence[int] | Tensor, *, size: int, seed: int) -> Int[Tensor, "size"]:
    """Return the indices of `size` samples to train on, each class in proportion to its frequency, ascending.

    Args:
        labels: the class of each sample of the training split.
        size: number of samples; `len(labels)` takes all.
        seed: seed of the choice; not the training seed.

    Raises:
        ValueError: `size` is below 1 or above the number of samples.
    """
    if size == len(labels):
        return torch.arange(size)
    if not 1 <= size < len(labels):
        raise ValueError(
            f"data.num_labelled: expected 1 to {len(labels)}, the size of the training split, or null; got {size}."
        )
    return stratified_split(torch.as_tensor(labels), size=size, seed=seed, name="data.num_labelled")[1]
