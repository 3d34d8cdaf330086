"""From samples to the batches that a model trains on: collated, augmented with parameters per sample, normalised."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.batch import Batch, Sample
from perceiver.collate import Collate
from perceiver.modalities.preprocess import normalise

Augment = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""`(B, …)` and its mask (`(B, *grid)`, True is valid, or None) to the same, changed; sizes of the grid may change.

It draws for every sample anew, from torch's global generator, so that `seed` makes runs repeatable; worker processes have
seeds of their own. Whether a sample is present at all stays as it was.
"""


class Transforms:
    """Transforms of one modality by name, one after another.

    Args:
        transforms: applied in this order; None or an entry of None for none.
        argument: where they are configured, for error messages.

    Raises:
        TypeError: an entry cannot be called, or `transforms` is no mapping.
    """

    def __init__(self, transforms: Mapping[str, Augment | None] | None, *, argument: str) -> None:
        if transforms is not None and not isinstance(transforms, Mapping):
            raise TypeError(
                f"{argument}: expected a mapping from a name of your choice to a transform, got {type(transforms).__name__}."
            )
        self.argument = argument
        self.transforms = {name: one for name, one in (transforms or {}).items() if one is not None}
        for name, one in self.transforms.items():
            if not callable(one):
                raise TypeError(f"{argument}.{name}: expected a transform to call or null, got {type(one).__name__}.")

    def __len__(self) -> int:
        return len(self.transforms)

    def __call__(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`(B, …)` and its mask, changed."""
        for transform in self.transforms.values():
            x, mask = transform(x, mask)
        return x, mask

    def check(self, x: Tensor, mask: Tensor | None, *, channel_axis: object) -> None:
        """Tries them on a batch, so that one that does not fit is reported before training starts.

        Args:
            x, mask: a batch of the modality.
            channel_axis: of a sample, 0 or -1.

        Raises:
            TypeError: a transform returns something else than a float tensor and a boolean mask or None.
            ValueError: it changes the number of samples, or the mask does not go with the tensor.
        """
        with torch.random.fork_rng(devices=[]):
            for name, transform in self.transforms.items():
                x, mask = self._checked(name, transform(x, mask), before=x, channel_axis=channel_axis)

    def _checked(self, name: str, result: Any, *, before: Tensor, channel_axis: object) -> tuple[Tensor, Tensor | None]:
        where = f"{self.argument}.{name}"
        fits = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
        if not fits or not result[0].is_floating_point():
            raise TypeError(f"{where}: expected (float tensor, mask or None) in return, got {_kind(result)}.")
        x, mask = result
        if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
            raise TypeError(f"{where}: expected a boolean mask or None, got {_kind(mask)}.")
        if x.ndim != before.ndim or x.shape[0] != before.shape[0]:
            raise ValueError(
                f"{where}: turned a batch of shape {tuple(before.shape)} into {tuple(x.shape)}; expected as many samples "
                "and axes."
            )
        grid = x.shape[2:] if channel_axis == 0 else x.shape[1:-1]
        if mask is not None and mask.shape not in (x.shape[:1], x.shape[:1] + grid):
            raise ValueError(f"{where}: returned a mask {tuple(mask.shape)} that does not go with {tuple(x.shape)}.")
        return x, mask


class AugmentedCollate:
    """What a DataLoader calls with samples: `perceiver.collate.Collate`, then `augment`, then the spec's normalisation.

    Args:
        modality: the one that is augmented and normalised.
        spec: of the data; see `LabelledDataModule.spec`.
        augment: transforms by name, applied in this order; None or an entry of None for none.

    Raises:
        TypeError: an entry of `augment` cannot be called, or `augment` is no mapping.
    """

    def __init__(
        self, *, modality: str, spec: Mapping[str, Any], augment: Mapping[str, Augment | None] | None = None
    ) -> None:
        self.modality = modality
        self.facts = spec["modalities"][modality]
        self.collate = Collate(modalities=spec["modalities"])
        self.augment = Transforms(augment, argument="data.augment")

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """B samples -> Batch. Errors as in `Collate`."""
        batch = self.collate(samples)
        x, mask = self.augment(*self._of(batch))
        batch.inputs[self.modality] = normalise(x, self.facts)
        if mask is not None:
            batch.masks[self.modality] = mask
        return batch

    def check(self, sample: Sample) -> None:
        """Tries the transforms on one sample; see `Transforms.check`."""
        x, mask = self._of(self.collate([sample, sample]))
        self.augment.check(x, mask, channel_axis=self.collate.channel_axes[self.modality])

    def _of(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        x = batch.inputs[self.modality]
        assert isinstance(x, Tensor)
        return x, batch.masks.get(self.modality)


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_kind(one) for one in value) + ")"
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
