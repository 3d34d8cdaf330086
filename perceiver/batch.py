"""Samples and batches: a dict of modalities each, any of which may be absent, and the collation from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Sample:
    """One sample as a data set yields it. Modalities that it lacks are simply not among its inputs.

    Args:
        inputs: a tensor for each modality, or a dict of them, where a modality needs several: values and times, numbers and
            categories.
        target: a class number, or a tensor. A dense one lies on a grid: class numbers `(*grid)` or values `(E, *grid)`.
        id: what identifies it.
        target_mask: of a dense target, `(*grid)`, True is valid; None: all is.

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
    """What a model trains on. Not frozen: Lightning moves its fields to the device.

    Args:
        inputs: a tensor `(B, …)` for each modality (or a dict of them, where a modality needs several).
        masks: only for modalities in which something is invalid: `(B,)` presence or `(B, *raw grid)`; True is valid.
        target: `(B,)` or `(B, …)`; None for prediction.
        ids: what identifies the samples, for error messages and tables of predictions.
        target_mask: of dense targets `(B, *grid)` or `(B, E, *grid)`: where there is one, `(B, *grid)`; None: everywhere.

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
        """The same batch in page-locked memory; the DataLoader asks for it."""
        return self._map(lambda x: x.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""
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
