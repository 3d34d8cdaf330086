"""Folds of a cross-validation: which samples a fold holds out for the test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One of several parts of about equal size and class proportions; it is the test split, the others are trained on.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> rest, held_out = Fold(number=0, of=2).split(labels, seed=0, name="digits")
    >>> labels[held_out].tolist()
    [0, 0, 1]

    Args:
        number: number of the fold, from 0.
        of: number of folds, 2 or more.
    """

    number: int
    of: int

    @classmethod
    def chosen(cls, *, folds: int | None, fold: int | None) -> Fold | None:
        """Return the fold that the settings `data.folds` and `data.fold` choose; None without cross-validation.

        Raises:
            ValueError: only one of both is given, or one is out of range.
        """
        if folds is None:
            if fold is not None:
                raise ValueError(f"data.fold={fold}: expected data.folds, the number of folds, too, e.g. data.folds=5.")
            return None
        if folds < 2:
            raise ValueError(f"data.folds: expected 2 or more, or null, got {folds}.")
        if fold is None:
            raise ValueError(
                f"data.folds={folds}: expected data.fold, the fold to test on, too, 0 to {folds - 1}; "
                "mode=cross_validate runs all folds."
            )
        if not 0 <= fold < folds:
            raise ValueError(f"data.fold: expected 0 to {folds - 1}, because there are {folds} folds, got {fold}.")
        return cls(number=fold, of=folds)

    def split(
        self, labels: Int[Tensor, "samples"], *, seed: int, name: object, groups: Sequence[str] | None = None
    ) -> tuple[Int[Tensor, "rest"], Int[Tensor, "held_out"]]:
        """Return the positions of the samples outside this fold and of those in it, both ascending.

        Without groups, the sizes of two folds differ by at most one, and so do their numbers of samples of a class.

        Args:
            labels: the class, or another stratum, of every sample.
            seed: decides the folds; not the training seed.
            name: place of the samples, for messages.
            groups: the group of every sample; a group is in a single fold. None: every sample by itself.

        Raises:
            ValueError: there are fewer samples or groups than folds, or a fold gets no samples.
        """
        if len(labels) < self.of:
            raise ValueError(f"data.folds: expected 2 to {len(labels)}, the number of samples of {name}, got {self.of}.")
        strata = labels.numpy()
        if groups is None:
            folds = _stratified(strata, folds=self.of, seed=seed)
        else:
            folds = _grouped(strata, np.unique(list(groups), return_inverse=True)[1], folds=self.of, seed=seed, name=name)
        held_out = folds == self.number
        return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def _stratified(strata: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each sample: samples in random order, sorted by class, are dealt out like cards."""
    # NumPy guarantees the stream of RandomState permanently; neither default_rng nor scikit-learn does.
    order = np.random.RandomState(seed).permutation(len(strata))
    dealt = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(len(strata), dtype=np.int64)
    found[dealt] = np.arange(len(strata)) % folds
    return found


def _grouped(
    strata: NDArray[np.int64], groups: NDArray[np.int64], *, folds: int, seed: int, name: object
) -> NDArray[np.int64]:
    """Return the fold of each sample, by scikit-learn's greedy distribution of whole groups."""
    # Takes a second to import, and only grouped folds need it.
    from sklearn.model_selection import StratifiedGroupKFold

    count = int(groups.max()) + 1
    if count < folds:
        raise ValueError(f"data.folds: expected 2 to {count}, the number of groups (data.group) of {name}, got {folds}.")
    # scikit-learn's own shuffling may change between versions.
    numbers = np.random.RandomState(seed).permutation(count)[groups]
    if np.bincount(strata).max() < folds:
        strata = np.zeros_like(strata)
    found = np.empty(len(strata), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer samples than folds
        for number, (_, held_out) in enumerate(StratifiedGroupKFold(n_splits=folds).split(strata, strata, numbers)):
            found[held_out] = number
    return found
