"""Samples and batches: a dict of modalities each, any of which may be absent, and the collation from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Sample:
    """One sample of a data set. Missing modalities are left out of its inputs.

    Args:
        inputs: a tensor for each modality, or a dict of tensors for modalities that need several: values and times, numbers
            and categories.
        target: a class number, or a tensor. A dense one lies on a grid: class numbers `(*grid)` or values `(E, *grid)`.
        id: identifies the sample in messages and tables.
        target_mask: validity of a dense target, `(*grid)`; None: all of it is valid.

    Examples:
        >>> import torch
        >>> from perceiver import Sample
        >>> sample = Sample(inputs={"image": torch.rand(3, 8, 8)}, target=1, id="cat-17")
        >>> sorted(sample.inputs)
        ['image']
    """

    inputs: dict[str, Tensor | dict[str, Tensor]]
    target: int | Tensor | None = None
    id: str = ""
    target_mask: Tensor | None = None


@dataclass
class Batch:
    """A batch of samples. Not frozen, since Lightning moves its fields to the device.

    Args:
        inputs: a tensor `(B, …)` for each modality, or a dict of tensors for modalities that need several.
        masks: for modalities with invalid content only: `(B,)` presence or `(B, *raw grid)`; True is valid.
        target: `(B,)` or `(B, …)`; None for prediction.
        ids: identify the samples in messages and tables of predictions.
        target_mask: validity of dense targets `(B, *grid)` or `(B, E, *grid)`, as `(B, *grid)`; None: all are valid.

    Examples:
        >>> import torch
        >>> from perceiver import Batch
        >>> batch = Batch(inputs={"image": torch.rand(4, 3, 8, 8)}, masks={"image": torch.tensor([True, True, True, False])})
        >>> batch.size
        4
    """

    inputs: dict[str, Tensor | dict[str, Tensor]]
    masks: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    ids: list[str] = field(default_factory=list)
    target_mask: Tensor | None = None

    @property
    def size(self) -> int:
        """B."""
        first = next(iter(self.inputs.values()))
        return (first if isinstance(first, Tensor) else next(iter(first.values()))).shape[0]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the DataLoader."""
        return self._map(lambda x: x.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def _map(self, move: Any) -> Batch:
        return Batch(
            inputs={
                name: move(x) if isinstance(x, Tensor) else {key: move(part) for key, part in x.items()}
                for name, x in self.inputs.items()
            },
            masks={name: move(mask) for name, mask in self.masks.items()},
            target=None if self.target is None else move(self.target),
            ids=self.ids,
            target_mask=None if self.target_mask is None else move(self.target_mask),
        )
