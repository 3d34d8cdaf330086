"""Samples and batches: dicts of modalities, any of which may be absent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from perceiver.samples.grounding import Phrase


@dataclass
class Sample:
    """One sample of a data set. Its inputs omit missing modalities.

    Args:
        inputs: a tensor per modality, or a dict of tensors for modalities with several: values and times, or numbers and
            categories.
        target: a class number, or a tensor. A dense target lies on a grid: class numbers `(*grid)` or values `(E, *grid)`.
        id: identifies the sample in messages and tables.
        target_mask: validity of a dense target, `(*grid)`; None: completely valid.
        grounding: phrases of a target text, with their places in the inputs; None: unknown.

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
    grounding: tuple[Phrase, ...] | None = None


@dataclass
class Batch:
    """A batch of samples. Not frozen, since Lightning moves its fields to the device.

    Args:
        inputs: a tensor `(B, …)` per modality, or a dict of tensors for modalities with several.
        masks: for modalities with invalid content only: `(B,)` presence or `(B, *raw grid)`; True is valid.
        target: `(B,)` or `(B, …)`; None for prediction.
        ids: identify the samples in messages and tables of predictions.
        target_mask: validity of dense targets `(B, *grid)` or `(B, E, *grid)`, as `(B, *grid)`; None: all are valid.
        groundings: for each sample, phrases of its target text with their places in the inputs; None: unknown.

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
    groundings: list[tuple[Phrase, ...]] | None = None

    @property
    def size(self) -> int:
        """Number of samples B."""
        return first_tensor(next(iter(self.inputs.values()))).shape[0]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        sizes: list[int] = []

        def measured(x: Tensor) -> Tensor:
            sizes.append(x.nbytes)
            return x

        self._map(measured)
        return sum(sizes)

    def inputs_of(self, row: int) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return the inputs of a sample, without the batch axis."""
        return {
            name: x[row] if isinstance(x, Tensor) else {key: part[row] for key, part in x.items()}
            for name, x in self.inputs.items()
        }

    def rows(self, rows: slice | list[int]) -> Batch:
        """Return the batch of some of the samples, by a slice or their numbers."""
        numbers = range(self.size)[rows] if isinstance(rows, slice) else rows
        groundings = None if self.groundings is None else [self.groundings[row] for row in numbers]
        ids = [self.ids[row] for row in numbers] if self.ids else []
        return replace(self._map(lambda x: x[rows]), ids=ids, groundings=groundings)

    def only(self, names: Collection[str]) -> Batch:
        """Return the batch without its other modalities: they are present in no sample."""
        others = {name: first_tensor(x) for name, x in self.inputs.items() if name not in names}
        absent = {name: x.new_zeros(self.size, dtype=torch.bool) for name, x in others.items()}
        return replace(self, masks=self.masks | absent)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the DataLoader."""
        return self._map(lambda x: x.pin_memory())

    def share_memory(self) -> Batch:
        """Return the batch in shared memory, into which its tensors are moved; RuntimeError if that is exhausted."""
        return self._map(lambda x: x.share_memory_())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def _map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            inputs={
                name: move(x) if isinstance(x, Tensor) else {key: move(part) for key, part in x.items()}
                for name, x in self.inputs.items()
            },
            masks={name: move(mask) for name, mask in self.masks.items()},
            target=None if self.target is None else move(self.target),
            ids=self.ids,
            target_mask=None if self.target_mask is None else move(self.target_mask),
            groundings=self.groundings,
        )


def first_tensor(x: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return the input of a modality, or its first tensor if it has several."""
    return x if isinstance(x, Tensor) else next(iter(x.values()))
