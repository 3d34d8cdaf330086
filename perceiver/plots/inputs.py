"""Single samples from batches, as figures show them: without padding or absent modalities, unnormalised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from perceiver.modalities.kinds import kind_of
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.spec import ModalitySpec
from perceiver.samples.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Single:
    """One sample as a batch of one. Completely valid modalities have no mask.

    Args:
        inputs: `(1, …)` by modality.
        masks: `(1, *raw grid)`.
        target: `(1, …)`, or None.
        id: id of the sample.
    """

    inputs: dict[str, Any]
    masks: dict[str, Tensor]
    target: Tensor | None
    id: str

    def shown(self, modality: str, spec: ModalitySpec) -> tuple[Any, Tensor | None]:
        """Return input and mask of a modality without the batch axis, on the CPU, with normalisation undone.

        A modality of several tensors is returned unchanged.
        """
        mask = self.masks.get(modality)
        mask = None if mask is None or mask.ndim < 2 else mask[0].cpu()
        x = self.inputs[modality]
        if not isinstance(x, Tensor):
            return {key: part[0].detach().cpu() for key, part in x.items()}, mask
        return unnormalised(x[0].detach().cpu(), spec), mask


def singles(batches: Iterable[Batch], modalities: Mapping[str, ModalitySpec]) -> Iterator[Single]:
    """Iterate over the samples of batches."""
    for batch in batches:
        for row in range(batch.size):
            yield _single(batch.rows(slice(row, row + 1)), row, modalities)


def _single(sample: Batch, row: int, modalities: Mapping[str, ModalitySpec]) -> Single:
    """Return row `row` of a batch as a batch of one, without padding and absent modalities."""
    inputs: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for name, x in sample.inputs.items():
        mask = sample.masks.get(name)
        if mask is not None and not bool(mask.any()):
            continue
        inputs[name] = x
        if isinstance(x, Tensor) and mask is not None and mask.ndim > 1:
            inputs[name], mask = _unpadded(x, mask, modalities.get(name, {}))
        if mask is not None and not bool(mask.all()):
            masks[name] = mask
    return Single(inputs=inputs, masks=masks, target=sample.target, id=next(iter(sample.ids), f"sample {row}"))


def _unpadded(x: Tensor, mask: Tensor, spec: ModalitySpec) -> tuple[Tensor, Tensor]:
    """Cut input and mask after the last valid element of each axis of the grid."""
    axis = spec.get("channel_axis", kind_of(spec).channel_axis)
    first = 2 if axis == 0 else 1
    if axis not in (0, -1, None) or x.shape[first : first + mask.ndim - 1] != mask.shape[1:]:
        return x, mask
    ends = [int(valid[-1]) + 1 for valid in mask[0].nonzero().sort(dim=0).values.unbind(dim=1)]
    cut = tuple(slice(end) for end in ends)
    return x[(slice(None),) * first + cut], mask[(slice(None), *cut)]
