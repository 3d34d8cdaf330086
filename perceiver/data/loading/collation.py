"""From the samples of a batch to the batch that a model gets: the steps that every data set goes through."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.batch import Batch, Sample
from perceiver.collate import Collate
from perceiver.data.loading.transforms import Transforms
from perceiver.modalities.preprocess import normalise


class PreparedCollate:
    """What a DataLoader calls: collation, then augmentation, corruption and normalisation by the spec.

    Args:
        modalities: of the spec: `kind`, `shape`, `mean`, `std` and the like, by name.
        augment: transforms by modality; they vary training batches only.
        corruption: the same, applied after them, in training and evaluation.
        seed: None: for training, transforms draw anew for every batch, from torch's global generator. A number: for
            evaluation, nothing is augmented, and the corruption of a sample follows from this number, its id and the
            modality alone: it is the same in every epoch, in any batch, and whichever other modalities there are.
        normalised: samples are normalised already.
    """

    def __init__(
        self,
        *,
        modalities: Mapping[str, Mapping[str, Any]],
        augment: Mapping[str, Transforms] | None = None,
        corruption: Mapping[str, Transforms] | None = None,
        seed: int | None = None,
        normalised: bool = False,
    ) -> None:
        self.modalities = dict(modalities)
        self.collate = Collate(modalities=self.modalities)
        self.augment = dict(augment or {})
        self.corruption = dict(corruption or {})
        self.seed = seed
        self.normalised = normalised

    def __call__(self, read: Sequence[Sample] | Batch) -> Batch:
        """B samples, or a batch of them that was read at once, to the batch of a model. Errors as in `Collate`."""
        if isinstance(read, Batch):
            batch = read
        else:
            batch = self.collate(read if self.seed is None else self._corrupted(read, self.seed))
        for name, x in batch.inputs.items():
            if not isinstance(x, Tensor):
                continue  # values and times, numbers and categories: their sources normalise them
            mask = batch.masks.get(name)
            for steps in (self.augment, self.corruption) if self.seed is None else ():
                if name in steps:
                    x, mask = steps[name](x, mask)
            batch.inputs[name] = x if self.normalised else normalise(x, self.modalities[name])
            if mask is not None:
                batch.masks[name] = mask
        return batch

    def check(self, read: Sequence[Sample] | Batch) -> None:
        """Try all transforms on samples, or on a batch of them that was read at once; see `Transforms.check`."""
        batch = read if isinstance(read, Batch) else self.collate(read)
        for name, x in batch.inputs.items():
            for steps in (self.augment, self.corruption):
                if name in steps:
                    assert isinstance(x, Tensor)
                    steps[name].check(x, batch.masks.get(name), channel_axis=self.collate.channel_axes[name])

    def _corrupted(self, samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
        if not self.corruption:
            return samples
        with torch.random.fork_rng(devices=[]):
            return [
                Sample(
                    inputs={
                        name: self._corrupt(x, name, key=f"{seed}/{name}/{sample.id}") for name, x in sample.inputs.items()
                    },
                    target=sample.target,
                    id=sample.id,
                    target_mask=sample.target_mask,
                )
                for sample in samples
            ]

    def _corrupt(self, x: Any, name: str, *, key: str) -> Any:
        if name not in self.corruption:
            return x
        # Not torch.manual_seed, which seeds accelerators too: this is done for every sample.
        torch.default_generator.manual_seed(_seed(key))
        corrupted, mask = self.corruption[name](x[None], None)
        if mask is None or bool(mask.all()):
            return corrupted[0]
        # Left out: a sample alone has no padding. Only grids of one axis have such masks.
        return corrupted[0][:, mask[0]] if self.collate.channel_axes[name] == 0 else corrupted[0][mask[0]]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
