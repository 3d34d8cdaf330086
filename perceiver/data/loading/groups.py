"""Groups of samples, such as patients or speakers, that no split may divide."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from perceiver.data.loading.splits import stratified_split


def split_off(
    labels: Int[Tensor, "samples"], *, size: int, seed: int, name: str, groups: Sequence[str] | None = None
) -> tuple[Int[Tensor, "rest"], Int[Tensor, "taken"]]:
    """Take out about `size` samples: exactly as many without groups, see `stratified_split`; else whole groups.

    Args:
        labels: the class of every sample.
        size: number of samples to take out.
        seed: seed of the split; not the training seed.
        name: argument that `size` came from, for the error message.
        groups: the group of every sample; None: every sample by itself.

    Returns:
        Positions of the samples that stay and of those taken out, both ascending.

    Raises:
        ValueError: nothing would be left on one side.
    """
    if groups is None:
        return stratified_split(labels, size=size, seed=seed, name=name)
    return grouped_split(labels, groups, size=size, seed=seed, name=name)


def grouped_split(
    labels: Int[Tensor, "samples"], groups: Sequence[str], *, size: int, seed: int, name: str
) -> tuple[Int[Tensor, "rest"], Int[Tensor, "taken"]]:
    """Take out whole groups with about `size` samples, so that the classes keep their proportions as far as possible.

    Groups, large ones first, are taken if that brings the number of samples taken of every class closer to its share (the
    sum of squares over the classes). At least one group is taken, and at least one stays.

    >>> labels = torch.tensor([0, 1, 0, 1, 0, 1])
    >>> grouped_split(labels, ["a", "a", "b", "b", "c", "c"], size=2, seed=0, name="data.validation_fraction")[1].tolist()
    [4, 5]

    Args:
        labels, size, seed, name: see `split_off`.
        groups: the group of every sample.

    Returns:
        Positions of the samples that stay and of those taken out, both ascending.

    Raises:
        ValueError: there is a single group.
    """
    names, number_of = np.unique(list(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"{name}: expected two or more groups (data.group), because no group is divided; all {len(labels)} samples "
            f"belong to {', '.join(map(repr, names.tolist())) or 'none'}."
        )
    classes, class_of = np.unique(labels.numpy(), return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (number_of, class_of), 1)
    wanted = counts.sum(axis=0) * size / len(labels)

    # NumPy guarantees the stream of RandomState permanently.
    order = np.random.RandomState(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    taken, so_far = np.zeros(len(names), dtype=bool), np.zeros(len(classes))
    for group in order:
        if taken.sum() + 1 < len(names) and _distance(so_far + counts[group], wanted) < _distance(so_far, wanted):
            taken[group] = True
            so_far += counts[group]
    if not taken.any():
        taken[min(order, key=lambda group: _distance(counts[group], wanted))] = True
    chosen = taken[number_of]
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _distance(counts: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(counts - wanted).sum())


def require_undivided(groups: Mapping[str, Sequence[str]], *, name: object) -> None:
    """Check that no group is in several splits.

    Args:
        groups: by split, the group of each sample.
        name: place of the samples, for the message.

    Raises:
        ValueError: a group is in two splits; the message names it.
    """
    seen: dict[str, str] = {}
    for split, names in groups.items():
        for group in names:
            if seen.setdefault(group, split) != split:
                raise ValueError(
                    f"data.group: {name} has the group {group!r} in both {seen[group]} and {split}. Change its splits, or "
                    "let data.group make them: without a column of splits (data.split=null), or with data.folds."
                )


def groups_of_paths(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each file: what the pattern's first pair of parentheses, or else the whole pattern, matches.

    >>> groups_of_paths(["train/7/7_jackson_32.wav", "train/7/7_theo_1.wav"], r"_([a-z]+)_")
    ['jackson', 'theo']

    Args:
        paths: relative paths with slashes.
        pattern: a regular expression, searched in each path.

    Raises:
        ValueError: the pattern is invalid, or a path does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"data.group: expected a regular expression for paths, got {pattern!r}: {error}.") from error
    found = []
    for path in paths:
        match = expression.search(path)
        if match is None:
            raise ValueError(f"data.group: the pattern {pattern!r} matches no part of the path {path!r}.")
        found.append(next((part for part in match.groups() if part is not None), match[0]))
    return found
