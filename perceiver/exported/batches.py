"""Arrays of several samples -> one batch: padded to the longest, with masks for padding and absent modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHORTEST = 2
"""Least size along a free axis: exported programs may take a size of 1 for a constant."""

_ABSENT = 8
"""Size along a free axis of a modality that no sample has."""

Sample = Mapping[str, Mapping[str | None, Array]]
"""Arrays of one sample, by modality and part."""


def batch_of(samples: Sequence[Sample], inputs: Sequence[Mapping[str, Any]], *, names: Sequence[str]) -> dict[str, Array]:
    """Return all inputs of an exported model, by name.

    Args:
        samples: samples, each with any of the modalities.
        inputs: entries `inputs` of the file's metadata.
        names: names of the samples in error messages.

    Raises:
        ValueError: for NaN or infinity, an empty array, or arrays that do not fit the inputs; names sample and modality.
    """
    batch: dict[str, Array] = {}
    for modality in sorted({entry["modality"] for entry in inputs}):
        own = [entry for entry in inputs if entry["modality"] == modality]
        tensors = [entry for entry in own if entry["part"] != "mask"]
        [mask] = [entry for entry in own if entry["part"] == "mask"]
        there = [row for row, sample in enumerate(samples) if modality in sample]
        for entry in tensors:
            arrays = {
                row: _checked(samples[row][modality], entry, name=f"{names[row]}, modality {modality!r}") for row in there
            }
            batch[entry["name"]] = _stacked(arrays, entry, count=len(samples))
        first = tensors[0]
        valid = np.zeros((len(samples), *(batch[first["name"]].shape[axis + 1] for axis in mask["axes"])), dtype=np.bool_)
        for row in there:
            own_shape = samples[row][modality][first["part"]].shape
            place: Any = (row, *(slice(own_shape[axis]) for axis in mask["axes"]))
            valid[place] = True
        batch[mask["name"]] = valid
    return batch


def _checked(parts: Mapping[str | None, Array], entry: Mapping[str, Any], *, name: str) -> Array:
    part, shape = entry["part"], entry["shape"]
    if part not in parts:
        raise ValueError(f"{name}: expected the part {part!r}, got {sorted(str(one) for one in parts)}.")
    x = parts[part]
    if x.ndim != len(shape) or any(size not in (None, got) for size, got in zip(shape, x.shape, strict=True)):
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"{name}: expected shape {expected}, got {x.shape}.")
    if 0 in x.shape:
        raise ValueError(f"{name}: is empty, shape {x.shape}. Leave the modality out where there is none.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        count = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"{name}: {count} of {x.size} values are NaN or infinite. Mend the file, leave the sample out, or mask what is "
            "missing."
        )
    return x


def _stacked(arrays: Mapping[int, Array], entry: Mapping[str, Any], *, count: int) -> Array:
    shape = []
    for axis, size in enumerate(entry["shape"]):
        longest = max((x.shape[axis] for x in arrays.values()), default=min(_ABSENT, entry["example"][axis]))
        shape.append(max(longest, SHORTEST) if size is None else size)
    stacked = np.zeros((count, *shape), dtype=entry["dtype"])
    for row, x in arrays.items():
        stacked[row][tuple(slice(size) for size in x.shape)] = x
    return stacked
