"""From samples to the batch that a model gets: the same steps for every data set."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perceiver.data.loading.transforms import Transforms
from perceiver.modalities.preprocess import normalise
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate


class PreparedCollate:
    """The collate function of a DataLoader: collation, then augmentation, corruption and normalisation by the spec.

    Args:
        modalities: the spec's modalities by name: `kind`, `shape`, `mean`, `std` and the like.
        augment: transforms by modality, for training batches only.
        corruption: transforms by modality, applied after `augment`, in training and evaluation.
        seed: None for training: transforms draw from torch's global generator for every batch. A number for evaluation:
            nothing is augmented, and the corruption of a sample depends only on this number, its id and the modality.
            It is the same in every epoch, in any batch, and whichever other modalities are present.
        normalised: modalities that are normalised already. Time series and tables always are.
    """

    def __init__(
        self,
        *,
        modalities: Mapping[str, Mapping[str, Any]],
        augment: Mapping[str, Transforms] | None = None,
        corruption: Mapping[str, Transforms] | None = None,
        seed: int | None = None,
        normalised: Collection[str] = (),
    ) -> None:
        self.modalities = dict(modalities)
        self.collate = Collate(modalities=self.modalities)
        self.augment = dict(augment or {})
        self.corruption = dict(corruption or {})
        self.seed = seed
        self.normalised = frozenset(normalised)

    def __call__(self, read: Sequence[Sample] | Batch) -> Batch:
        """Turn B samples, or a batch that was read at once, into the batch of a model. Errors as in `Collate`."""
        if isinstance(read, Batch):
            batch = read
        else:
            batch = self.collate(read if self.seed is None else self._corrupted(read, self.seed))
        for name, x in batch.inputs.items():
            mask = batch.masks.get(name)
            for steps in (self.augment, self.corruption) if self.seed is None else ():
                if name in steps:
                    x, mask = steps[name](x, mask)
            if isinstance(x, Tensor) and name not in self.normalised:
                x = normalise(x, self.modalities[name])
            batch.inputs[name] = x
            if mask is not None:
                batch.masks[name] = mask
        return batch

    def check(self, read: Sequence[Sample] | Batch) -> None:
        """Try all transforms on samples, or on a batch that was read at once; see `Transforms.check`."""
        batch = read if isinstance(read, Batch) else self.collate(read)
        for name, x in batch.inputs.items():
            for steps in (self.augment, self.corruption):
                if name in steps:
                    steps[name].check(x, batch.masks.get(name), channel_axis=self.collate.channel_axes[name])

    def _corrupted(self, samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
        if not self.corruption:
            return samples
        with torch.random.fork_rng(devices=[]):
            return [
                replace(
                    sample,
                    inputs={
                        name: self._corrupt(x, name, key=f"{seed}/{name}/{sample.id}") for name, x in sample.inputs.items()
                    },
                )
                for sample in samples
            ]

    def _corrupt(self, x: Any, name: str, *, key: str) -> Any:
        if name not in self.corruption:
            return x
        # Not torch.manual_seed: it also seeds accelerators, and this runs for every sample.
        torch.default_generator.manual_seed(_seed(key))
        single = {part: own[None] for part, own in x.items()} if isinstance(x, Mapping) else x[None]
        corrupted, mask = self.corruption[name](single, None)
        axes = self.collate.channel_axes[name]
        if isinstance(corrupted, Mapping):
            assert isinstance(axes, Mapping)
            return {part: _valid(own[0], mask, axes[part]) for part, own in corrupted.items()}
        return _valid(corrupted[0], mask, axes)


def _valid(x: Tensor, mask: Tensor | None, axis: object) -> Tensor:
    """Drop the masked positions of a sample, which has no padding. Only one-dimensional grids have such masks."""
    if mask is None or bool(mask.all()):
        return x
    return x[:, mask[0]] if axis == 0 else x[mask[0]]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
