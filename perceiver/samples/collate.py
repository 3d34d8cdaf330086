"""Collation of samples into batches: stacking, padding and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceiver.modalities.kinds import channel_axes
from perceiver.modalities.modality import Axis
from perceiver.modalities.spec import ModalitySpec
from perceiver.samples.batch import Batch, Sample


class Collate:
    """Collate samples into a batch: stack equal shapes, pad ragged shapes at the end, and mask invalid content.

    Dense targets are padded like their input; `target_mask` marks where they are valid.

    All tensors of a modality share a grid and a mask. A boolean tensor that some samples lack (`present` of time series
    without missing values) is True for these samples.

    Args:
        modalities: spec of each modality: `kind`, and `channel_axis` for kinds without a class: 0 (channels first), -1
            (channels last), "none" (no channels), or a mapping of these by the names of a sample's tensors.

    Examples:
        >>> import torch
        >>> from perceiver import Collate, Sample
        >>> collate = Collate(modalities={"sound": {"kind": "audio"}})
        >>> batch = collate([Sample({"sound": torch.ones(1, 3)}, target=0), Sample({"sound": torch.ones(1, 5)}, target=1)])
        >>> batch.inputs["sound"].shape, batch.target.tolist()
        (torch.Size([2, 1, 5]), [0, 1])
        >>> batch.masks["sound"].sum(dim=1).tolist()
        [3, 5]
    """

    def __init__(self, *, modalities: Mapping[str, ModalitySpec]) -> None:
        self.channel_axes: dict[str, Axis | dict[str, Axis]] = {
            name: channel_axes(name, modality) for name, modality in modalities.items()
        }

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate B samples into a batch.

        Raises:
            ValueError: for an unknown modality, NaN or infinity, an empty set, different numbers of channels or dtypes,
                inconsistent tensors of a modality, or a sample without any modality; names sample and modality.
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
            axes = self.channel_axes[name]
            values = {
                row: _Value(f"sample {sample.id!r}, modality {name!r}", sample.inputs[name])
                for row, sample in enumerate(samples)
                if name in sample.inputs
            }
            if isinstance(axes, dict):
                batch.inputs[name], mask = _stack_parts(values, axes, num_samples=len(samples))
            else:
                batch.inputs[name], mask = _stack(values, axes, num_samples=len(samples))
            if mask is not None:
                batch.masks[name] = mask
        if all(sample.target is not None for sample in samples):
            batch.target, batch.target_mask = stacked_targets(samples)
        elif any(sample.target is not None for sample in samples):
            without = next(sample.id for sample in samples if sample.target is None)
            raise ValueError(f"sample {without!r}: has no target, but other samples in its batch have one.")
        if any(sample.grounding is not None for sample in samples):
            batch.groundings = [sample.grounding or () for sample in samples]
        return batch


def stacked_targets(samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
    """Stack the targets of all samples to `(B, …)`; for dense targets also the mask, unless all are valid.

    Raises:
        ValueError: for inconsistent targets, or a mask that does not fit its target; names the sample.
    """
    targets = [torch.as_tensor(sample.target) for sample in samples]
    masks = [sample.target_mask for sample in samples]
    shapes = {target.shape for target in targets}
    if all(mask is None for mask in masks) and (len(shapes) == 1 or any(len(shape) < 2 for shape in shapes)):
        return torch.stack(targets), None
    first = targets[0]
    # The first axis of floating-point targets holds the channels.
    axes = next((mask.ndim for mask in masks if mask is not None), first.ndim - first.is_floating_point())
    channels = first.shape[: first.ndim - axes]
    for sample, target, mask in zip(samples, targets, masks, strict=True):
        if target.ndim != first.ndim or target.shape[: len(channels)] != channels or target.dtype != first.dtype:
            raise ValueError(
                f"sample {sample.id!r}: its target, {target.dtype} {tuple(target.shape)}, does not match "
                f"{first.dtype} {tuple(first.shape)} of the batch's first sample: only sizes of the grid may differ."
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != target.shape[len(channels) :]):
            raise ValueError(
                f"sample {sample.id!r}: expected a boolean target_mask {tuple(target.shape[len(channels) :])} like "
                f"the grid of its target, True for valid; got {mask.dtype} {tuple(mask.shape)}."
            )
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    stacked = first.new_zeros(len(samples), *largest)
    valid = torch.zeros(len(samples), *largest[len(channels) :], dtype=torch.bool)
    for row, (target, mask) in enumerate(zip(targets, masks, strict=True)):
        stacked[row][tuple(slice(size) for size in target.shape)] = target
        own = tuple(slice(size) for size in target.shape[len(channels) :])
        valid[row][own] = True if mask is None else mask
    return stacked, valid


@dataclass(frozen=True)
class _Value:
    """The value of a modality in one sample, and its name in error messages."""

    where: str
    x: Tensor | dict[str, Tensor]


def _stack_parts(
    values: Mapping[int, _Value], axes: Mapping[str, Axis], *, num_samples: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Stack a modality of several tensors: each to `(B, …)`, with a shared mask."""
    stacked: dict[str, Tensor] = {}
    mask: Tensor | None = None
    for value in values.values():
        _check_parts(value, axes)
    parts = [part for part in axes if any(part in value.x for value in values.values())]
    for part in parts:
        tensors = {
            row: _Value(f"{value.where}, {part!r}", value.x[part])
            for row, value in values.items()
            if isinstance(value.x, dict) and part in value.x
        }
        lacking = [row for row in values if row not in tensors]
        if lacking and any(isinstance(one.x, Tensor) and one.x.dtype != torch.bool for one in tensors.values()):
            raise ValueError(f"{values[lacking[0]].where}: has no {part!r}, but other samples in its batch do.")
        x, own = _stack(tensors, axes[part], num_samples=num_samples, empty_channels=True)
        if lacking:
            # Samples with this tensor may be shorter than samples without it.
            grids = (_grid(x_[0], axes[other]) for other, x_ in stacked.items())
            x = _filled(x, lacking, axis=axes[part], grid=next(grids, _grid(x[0], axes[part])))
        else:
            mask = own
        stacked[part] = x
    return stacked, mask


def _filled(x: Tensor, rows: Sequence[int], *, axis: Axis, grid: tuple[int, ...]) -> Tensor:
    """Pad a boolean tensor `(B, …)` to the grid of the others, True in the rows of samples without it."""
    channels = () if axis is None else (x.shape[1 if axis == 0 else -1],)
    padded = x.new_zeros(x.shape[0], *(channels if axis == 0 else ()), *grid, *(channels if axis == -1 else ()))
    padded[tuple(slice(size) for size in x.shape)] = x
    padded[list(rows)] = True
    return padded


def _check_parts(value: _Value, axes: Mapping[str, Axis]) -> None:
    if not isinstance(value.x, dict) or not value.x or set(value.x) - set(axes):
        got = sorted(value.x) if isinstance(value.x, dict) else f"a tensor of shape {tuple(value.x.shape)}"
        raise ValueError(f"{value.where}: expected a dict with some of {', '.join(axes)}, got {got}.")
    grids = {part: _grid(x, axes[part]) for part, x in value.x.items()}
    if len(set(grids.values())) > 1:
        raise ValueError(f"{value.where}: expected tensors of one grid, got {grids}.")


def _grid(x: Tensor, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(x.shape)
    return tuple(x.shape[1:] if axis == 0 else x.shape[:-1])


def _stack(
    values: Mapping[int, _Value], axis: Axis, *, num_samples: int, empty_channels: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Stack one tensor of the samples that have it, by row, to `(B, …)` with a mask `(B,)` or `(B, *grid)`."""
    tensors = _checked(values, axis, empty_channels=empty_channels)
    first = next(iter(tensors.values()))
    shapes = {x.shape for x in tensors.values()}
    if len(shapes) == 1 and len(tensors) == num_samples:
        stacked = torch.stack(list(tensors.values()))
        if stacked.is_floating_point() and not bool(stacked.isfinite().all()):
            _report_non_finite(values)
        return stacked, None
    _report_non_finite(values)
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    stacked = first.new_zeros(num_samples, *largest)
    if len(shapes) == 1:
        mask = torch.zeros(num_samples, dtype=torch.bool)
        for row, x in tensors.items():
            stacked[row], mask[row] = x, True
        return stacked, mask
    mask = torch.zeros(num_samples, *_grid(stacked[0], axis), dtype=torch.bool)
    for row, x in tensors.items():
        stacked[row][tuple(slice(size) for size in x.shape)] = x
        mask[row][tuple(slice(size) for size in _grid(x, axis))] = True
    return stacked, mask


def _checked(values: Mapping[int, _Value], axis: Axis, *, empty_channels: bool) -> dict[int, Tensor]:
    """Check that all tensors have the same dtype and number of channels, and return them by row."""
    tensors: dict[int, Tensor] = {}
    for row, value in values.items():
        x = value.x
        if not isinstance(x, Tensor):
            raise ValueError(f"{value.where}: expected a tensor, got a dict with {sorted(x)}.")
        first = next(iter(tensors.values()), x)
        if 0 in (_grid(x, axis) if empty_channels and x.ndim else x.shape):
            raise ValueError(f"{value.where}: is empty, shape {tuple(x.shape)}. Leave out a missing modality.")
        if x.ndim == 0 or x.ndim != first.ndim or (axis is not None and x.shape[axis] != first.shape[axis]):
            channels = "there are no channels, all axes" if axis is None else f"the channels are axis {axis}, other axes"
            raise ValueError(
                f"{value.where}: shape {tuple(x.shape)} does not match {tuple(first.shape)} of the batch's first sample: "
                f"{channels} may differ."
            )
        if x.dtype != first.dtype:
            raise ValueError(
                f"{value.where}: dtype {x.dtype}, but {first.dtype} in another sample of its batch; convert one."
            )
        tensors[row] = x
    return tensors


def _report_non_finite(values: Mapping[int, _Value]) -> None:
    for value in values.values():
        x = value.x
        if isinstance(x, Tensor) and x.is_floating_point() and not bool(x.isfinite().all()):
            count = int((~x.isfinite()).sum())
            raise ValueError(
                f"{value.where}: {count} of {x.numel()} values are NaN or infinite. Fix the file, leave out the "
                "sample, or mask missing values."
            )
