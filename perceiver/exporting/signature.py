"""The signature of an exported model: names, types and free axes of its inputs, and an example that fits them.

It follows from the spec. A modality whose samples all have one shape gets a mask of samples `(B,)`; if lengths are free, it
gets a mask of elements `(B, *grid)`. In both, False marks what is absent or padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from perceiver.exported.onnx_file import MAX_ELEMENTS
from perceiver.modalities.kinds import channel_axes
from perceiver.modalities.modality import Axis
from perceiver.modalities.spec import ModalitySpec

MASK = "mask"
"""Name of a modality's mask: the input `image.mask`."""

_NUMPY_TYPES = {torch.float32: "float32", torch.float64: "float64", torch.int64: "int64", torch.bool: "bool"}
_LENGTHS = {"image": (32, 36), "video": (6, 32, 36), "points": (40,), "text": (24,), "timeseries": (12,)}
"""Sizes of the example along free axes, by kind: any sizes serve that differ from each other and from 1."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor of an exported model.

    Args:
        name: name in the file: `image`, `table.numbers`, `image.mask`.
        modality: modality it belongs to.
        part: name among several tensors of a modality, `mask` for its mask; None: the only tensor.
        dtype: NumPy's name of the type.
        shape: sizes without the batch axis; None where free.
        example: an example `(2, …)`.
        axes: for a mask: the axes of a sample of the modality's first tensor that it covers, in order.
    """

    name: str
    modality: str
    part: str | None
    dtype: str
    shape: tuple[int | None, ...]
    example: Tensor
    axes: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the entry of the file's metadata."""
        return {
            "name": self.name,
            "modality": self.modality,
            "part": self.part,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "example": list(self.example.shape[1:]),
            "axes": list(self.axes),
        }


def inputs_of(
    modalities: Mapping[str, ModalitySpec],
    given: Mapping[str, Any] | None = None,
    *,
    longest: Mapping[str, int] | None = None,
) -> list[Input]:
    """Return the tensors of these modalities, in sorted order of the modalities, masks last for each.

    Args:
        modalities: entries of the spec.
        given: example inputs by modality, `(B, …)` as the model takes them; default: made from the spec.
        longest: number of outputs that the head has for each token of a text, at most; the example is shorter.

    Raises:
        ValueError: if no example can be made of an entry; names the modality.
    """
    found: list[Input] = []
    used: set[int] = set()
    for name in sorted(modalities):
        spec = modalities[name]
        example = (given or {}).get(name)
        limit = min((longest or {}).get(name, 2**31), int(spec.get("max_length") or 2**31))
        example = _example(name, spec, limit=limit, used=used) if example is None else _two_samples(example)
        parts: dict[str | None, Tensor] = dict(example) if isinstance(example, Mapping) else {None: example}
        axes = channel_axes(name, spec)
        free = _free_axes(name, spec, parts, axes)
        for part, tensor in parts.items():
            if tensor.dtype not in _NUMPY_TYPES:
                raise ValueError(
                    f"export: inputs: {_name(name, part)}: expected float32, int64 or bool, got {tensor.dtype}."
                )
            own = free[part]
            found.append(
                Input(
                    name=_name(name, part),
                    modality=name,
                    part=part,
                    dtype=_NUMPY_TYPES[tensor.dtype],
                    shape=tuple(None if axis in own else int(tensor.shape[axis]) for axis in range(1, tensor.ndim)),
                    example=tensor,
                )
            )
        part, first = next(iter(parts.items()))
        grid = _grid_axes(first, axes[str(part)] if isinstance(axes, Mapping) else axes)
        found.append(_mask(found[-len(parts)], grid if free[part] else ()))
    return found


def _mask(first: Input, grid: Sequence[int]) -> Input:
    """Return the mask over these axes of a modality's first tensor; without axes, a mask of samples."""
    example = torch.ones(2, *(first.example.shape[axis] for axis in grid), dtype=torch.bool)
    example[0] = False
    return Input(
        name=_name(first.modality, MASK),
        modality=first.modality,
        part=MASK,
        dtype="bool",
        shape=tuple(first.shape[axis - 1] for axis in grid),
        example=example,
        axes=tuple(axis - 1 for axis in grid),
    )


def _free_axes(
    name: str, spec: ModalitySpec, parts: Mapping[str | None, Tensor], axes: Axis | Mapping[str, Axis]
) -> dict[str | None, set[int]]:
    """Return the axes of each tensor, counted with the batch axis, whose sizes may differ between calls."""
    free: dict[str | None, set[int]] = {}
    for part, tensor in parts.items():
        axis = axes[str(part)] if isinstance(axes, Mapping) else axes
        if spec.get("kind") == "timeseries":
            free[part] = {1}
        elif spec.get("kind") == "table" or (shape := spec.get("shape")) is None:
            free[part] = set() if isinstance(axes, Mapping) or spec.get("kind") == "label" else set(_grid_axes(tensor, axis))
        else:
            if len(shape) != tensor.ndim - 1:
                raise ValueError(
                    f"export: inputs: {name}: expected samples of shape {shape}, got {tuple(tensor.shape[1:])}."
                )
            free[part] = {place + 1 for place, size in enumerate(shape) if size is None}
    return free


def _grid_axes(tensor: Tensor, axis: Axis) -> Sequence[int]:
    places = range(1, tensor.ndim)
    if axis is None:
        return places
    return places[1:] if axis == 0 else places[:-1]


def _example(name: str, spec: ModalitySpec, *, limit: int, used: set[int]) -> Tensor | dict[str, Tensor]:
    """Return two made-up samples in the form of the adapter's input, with lengths that no other has: see `_unused`."""
    kind, generator = spec.get("kind"), torch.Generator().manual_seed(0)
    if kind == "table":
        numbers, categories = len(spec.get("numbers") or ()), len(spec.get("categories") or ())
        parts = {
            "numbers": torch.randn(2, numbers, generator=generator),
            "categories": torch.zeros(2, categories, dtype=torch.int64),
            "present": torch.ones(2, numbers + categories, dtype=torch.bool),
        }
        return {part: x for part, x in parts.items() if x.shape[1]}
    if kind == "timeseries":
        steps, values = _unused(_LENGTHS["timeseries"][0], used), int(spec["num_values"])
        _check_size(name, [steps, values])
        return {
            "values": torch.randn(2, steps, values, generator=generator),
            "times": torch.arange(float(steps), dtype=torch.float64).expand(2, -1).clone(),
            "present": torch.ones(2, steps, values, dtype=torch.bool),
        }
    shape = spec.get("shape")
    if shape is None:
        raise ValueError(
            f"export: modality {name!r}: its spec has no shape; give an example as inputs={{{name!r}: tensor, …}}."
        )
    if kind == "text":
        length = _unused(max(2, min(_LENGTHS["text"][0], limit - 1)), used, most=limit - 1)
        return torch.randint(int(spec["vocabulary_size"]), (2, length), generator=generator)
    if kind == "audio":
        seconds = min(1.0, float(spec.get("max_seconds") or 1.0))
        sizes: Sequence[int] = [max(2, round(seconds * int(spec.get("sample_rate") or 4000)))]
    else:
        sizes = _LENGTHS.get(str(kind), (24, 28, 20))
    lengths = iter(sizes)
    chosen = [_unused(next(lengths), used) if size is None else int(size) for size in shape]
    _check_size(name, chosen)
    return torch.randn(2, *chosen, generator=generator)


def _check_size(name: str, shape: Sequence[int]) -> None:
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(
            f"export: modality {name!r}: expected samples of at most {MAX_ELEMENTS:,} numbers, but one of shape "
            f"{list(shape)} fits its spec. Correct the spec, or give a smaller example as inputs={{{name!r}: tensor, …}}."
        )


def _unused(size: int, used: set[int], *, most: int | None = None) -> int:
    """Return a size near this one that no other axis has: torch.export takes equal sizes for one."""
    larger = range(size, (size + 1000 if most is None else most) + 1)
    found = next((one for one in chain(larger, range(size - 1, 1, -1)) if one not in used), size)
    used.add(found)
    return found


def _two_samples(example: Any) -> Tensor | dict[str, Tensor]:
    """Return the example with two samples: torch.export takes a single one for a constant."""
    if isinstance(example, Mapping):
        return {str(part): _two(x) for part, x in example.items()}
    return _two(example)


def _two(x: Tensor) -> Tensor:
    return (x if len(x) > 1 else x.repeat(2, *[1] * (x.ndim - 1)))[:2].detach().cpu()


def _name(modality: str, part: str | None) -> str:
    return modality if part is None else f"{modality}.{part}"
