"""Collation of samples of several modalities: each augmented, corrupted and normalised by transforms of its own."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perceiver.batch import Batch, Sample
from perceiver.collate import Collate
from perceiver.data.augmentation.images import augmented
from perceiver.data.loading import images
from perceiver.data.loading.collation import Transforms
from perceiver.modalities.preprocess import normalise

ByModality = Mapping[str, Mapping[str, Any] | None]
"""Transforms by modality and name: as `perceiver.data.loading.images.Augment` for images, else as `collation.Augment`."""


class MatchedCollate:
    """What a DataLoader calls: `perceiver.collate.Collate`, then `augment`, `corruption` and the spec's normalisation.

    Args:
        spec: of the data.
        augment: transforms by modality and name, applied in this order; None for none. They vary training batches only.
            Those of modalities that the spec does not have are not used.
        corruption: the same, after `augment`, in training and evaluation.
        seed: None: for training, transforms draw anew for every batch, from torch's global generator. A number: for
            evaluation, nothing is augmented, and the corruption of a sample follows from this number, its id and the
            modality alone: it is the same in every epoch, in any batch, and whichever other modalities there are.

    Raises:
        TypeError: a transform cannot be called.
    """

    def __init__(
        self,
        *,
        spec: Mapping[str, Any],
        augment: ByModality | None = None,
        corruption: ByModality | None = None,
        seed: int | None = None,
    ) -> None:
        self.facts: dict[str, Mapping[str, Any]] = dict(spec["modalities"])
        self.collate = Collate(modalities=self.facts)
        self.augment = _transforms(augment, facts=self.facts, argument="data.augment")
        self.corruption = _transforms(corruption, facts=self.facts, argument="data.corruption")
        self.seed = seed

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """B samples -> Batch. Errors as in `Collate`."""
        batch = self.collate(samples if self.seed is None else self._corrupted(samples, self.seed))
        for name in batch.inputs:
            x, mask = _of(batch, name)
            if self.seed is None:
                x, mask = self.corruption[name](*self.augment[name](x, mask))
            batch.inputs[name] = normalise(x, self.facts[name])
            if mask is not None:
                batch.masks[name] = mask
        return batch

    def check(self, sample: Sample) -> None:
        """Tries all transforms on the modalities of one sample; see `perceiver.data.loading.collation.Transforms.check`."""
        batch = self.collate([sample, sample])
        for name in batch.inputs:
            for transforms in (self.augment[name], self.corruption[name]):
                transforms.check(*_of(batch, name), channel_axis=self.collate.channel_axes[name])

    def _corrupted(self, samples: Sequence[Sample], seed: int) -> Sequence[Sample]:
        if not any(self.corruption.values()):
            return samples
        with torch.random.fork_rng(devices=[]):
            return [
                Sample(
                    inputs={
                        name: self._corrupt(x, name, key=f"{seed}/{name}/{sample.id}") for name, x in sample.inputs.items()
                    },
                    target=sample.target,
                    id=sample.id,
                )
                for sample in samples
            ]

    def _corrupt(self, x: Any, name: str, *, key: str) -> Any:
        if not self.corruption[name]:
            return x
        # Not torch.manual_seed, which seeds accelerators too: this is done for every sample.
        torch.default_generator.manual_seed(_seed(key))
        corrupted, mask = self.corruption[name](x[None], None)
        if mask is None or bool(mask.all()):
            return corrupted[0]
        # Left out: a sample alone has no padding. Only grids of one axis have such masks.
        return corrupted[0][:, mask[0]] if self.collate.channel_axes[name] == 0 else corrupted[0][mask[0]]


@dataclass(frozen=True)
class OnImages:
    """An image transform in the form of others: it gets the whole batch if it `draws_per_image`, else image by image."""

    transform: images.Augment

    def __call__(self, x: Tensor, mask: Tensor | None) -> tuple[Any, Tensor | None]:
        """`(B, C, H, W)` in and, from a transform that keeps sizes, out; the mask stays."""
        return augmented(self.transform, x), mask


def _transforms(given: ByModality | None, *, facts: Mapping[str, Mapping[str, Any]], argument: str) -> dict[str, Transforms]:
    transforms = {}
    for name, modality in facts.items():
        own: Any = (given or {}).get(name)
        if modality.get("kind") == "image" and isinstance(own, Mapping):
            own = {key: OnImages(one) if callable(one) else one for key, one in own.items()}
        transforms[name] = Transforms(own, argument=f"{argument}.{name}")
    return transforms


def check_names(given: ByModality | None, *, available: Sequence[str], argument: str) -> None:
    """Settings by modality name modalities that there are.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in given or {} if name not in available]
    if unknown:
        raise ValueError(f"{argument}.{unknown[0]}: expected settings of {', '.join(available)}; got {unknown[0]!r}.")


def _of(batch: Batch, name: str) -> tuple[Tensor, Tensor | None]:
    x = batch.inputs[name]
    assert isinstance(x, Tensor)
    return x, batch.masks.get(name)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
