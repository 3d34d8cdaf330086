"""Samples and batches: a dict of modalities each, any of which may be absent, and the collation from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CHANNEL_AXES = {"image": 0, "audio": 0, "points": -1}
"""Where the channels of one sample are, by kind of modality; its other axes are the grid. See `channel_axis` in the spec."""


@dataclass
class Sample:
    """One sample as a data set yields it. Modalities that it lacks are simply not among its inputs."""

    inputs: dict[str, Tensor]
    target: int | Tensor | None = None
    id: str = ""


@dataclass
class Batch:
    """What a model trains on. Not frozen: Lightning moves its fields to the device.

    Args:
        inputs: a tensor `(B, …)` for each modality (or a dict of them, where a modality needs several).
        masks: only for modalities in which something is invalid: `(B,)` presence or `(B, *raw grid)`; True is valid.
        target: `(B,)` or `(B, …)`; None for prediction.
        ids: what identifies the samples, for error messages and tables of predictions.
    """

    inputs: dict[str, Tensor | dict[str, Tensor]]
    masks: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    ids: list[str] = field(default_factory=list)

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
        )


class Collate:
    """Samples to a batch: stacks equal shapes, pads ragged ones at the end, and makes masks where something is invalid.

    Args:
        modalities: the spec of each modality: `kind`, and `channel_axis` (0 or -1) for kinds not listed here.
    """

    def __init__(self, *, modalities: Mapping[str, Mapping[str, Any]]) -> None:
        self.channel_axes: dict[str, int] = {}
        for name, modality in modalities.items():
            axis = modality.get("channel_axis")
            axis = CHANNEL_AXES.get(str(modality.get("kind"))) if axis is None else axis
            if axis not in (0, -1):
                raise ValueError(
                    f"spec.modalities.{name}: kind {modality.get('kind')!r} is not one of {', '.join(CHANNEL_AXES)}; say "
                    "with channel_axis: 0 (channels first) or -1 (channels last) how its samples are laid out."
                )
            self.channel_axes[name] = axis

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """B samples -> Batch.

        Raises:
            ValueError: naming sample and modality, for an unknown modality, NaN or infinity, an empty set, another number
                of channels or another dtype than its neighbours, or a sample without any modality.
        """
        if not samples:
            raise ValueError("Collate: expected at least one sample, got none.")
        for sample in samples:
            unknown = set(sample.inputs) - set(self.channel_axes)
            if unknown or not sample.inputs:
                raise ValueError(
                    f"sample {sample.id!r}: expected one or more of the modalities {sorted(self.channel_axes)}, "
                    f"got {sorted(sample.inputs)}."
                )
        batch = Batch(inputs={}, ids=[sample.id for sample in samples])
        for name in sorted(set().union(*(sample.inputs for sample in samples))):
            stacked, mask = self._stack(name, samples)
            batch.inputs[name] = stacked
            if mask is not None:
                batch.masks[name] = mask
        if all(sample.target is not None for sample in samples):
            batch.target = torch.stack([torch.as_tensor(sample.target) for sample in samples])
        elif any(sample.target is not None for sample in samples):
            without = next(sample.id for sample in samples if sample.target is None)
            raise ValueError(f"sample {without!r}: has no target, other samples of its batch have one.")
        return batch

    def _stack(self, name: str, samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        """One modality of all samples: `(B, …)` and its mask."""
        axis = self.channel_axes[name]
        present = {row: sample.inputs[name] for row, sample in enumerate(samples) if name in sample.inputs}
        first = next(iter(present.values()))
        for row, x in present.items():
            where = f"sample {samples[row].id!r}, modality {name!r}"
            if x.numel() == 0:
                raise ValueError(f"{where}: is empty, shape {tuple(x.shape)}. Leave the modality out where there is none.")
            if x.ndim == 0 or x.ndim != first.ndim or x.shape[axis] != first.shape[axis]:
                raise ValueError(
                    f"{where}: shape {tuple(x.shape)} does not go with {tuple(first.shape)} of the batch's first sample: "
                    f"the channels are axis {axis}, other axes may differ."
                )
            if x.dtype != first.dtype:
                raise ValueError(f"{where}: dtype {x.dtype}, but {first.dtype} in another sample of its batch; convert one.")
        shapes = {x.shape for x in present.values()}
        if len(shapes) == 1 and len(present) == len(samples):
            stacked = torch.stack(list(present.values()))
            if stacked.is_floating_point() and not bool(stacked.isfinite().all()):
                self._report_non_finite(name, samples, present)
            return stacked, None
        self._report_non_finite(name, samples, present)
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        stacked = first.new_zeros(len(samples), *largest)
        if len(shapes) == 1:
            mask = torch.zeros(len(samples), dtype=torch.bool)
            for row, x in present.items():
                stacked[row], mask[row] = x, True
            return stacked, mask
        grid = largest[1:] if axis == 0 else largest[:-1]
        mask = torch.zeros(len(samples), *grid, dtype=torch.bool)
        for row, x in present.items():
            stacked[row][tuple(slice(size) for size in x.shape)] = x
            own = x.shape[1:] if axis == 0 else x.shape[:-1]
            mask[row][tuple(slice(size) for size in own)] = True
        return stacked, mask

    @staticmethod
    def _report_non_finite(name: str, samples: Sequence[Sample], present: Mapping[int, Tensor]) -> None:
        for row, x in present.items():
            if x.is_floating_point() and not bool(x.isfinite().all()):
                count = int((~x.isfinite()).sum())
                raise ValueError(
                    f"sample {samples[row].id!r}, modality {name!r}: {count} of {x.numel()} values are NaN or infinite."
                    " Mend the file, leave the sample out, or mask what is missing."
                )
