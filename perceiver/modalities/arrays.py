"""Conversion, scaling, normalisation and shape checks that several kinds of modality share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.modalities.spec import ModalitySpec


def scale(x: Tensor, spec: ModalitySpec, *, name: str = "image") -> Tensor:
    """Scale integers of the spec's `range`, booleans, or floats in [0, 1] to float32 in [0, 1]; any shape."""
    low, high = spec.get("range", (0, 255))
    if x.dtype == torch.bool:
        return x.to(torch.float32)
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.float32)
        if x.numel() and (x.amin() < low or x.amax() > high):
            raise ValueError(f"{name}: expected integers in [{low}, {high}], got values in [{x.amin():g}, {x.amax():g}].")
        scaled: Tensor = (x - low) / (high - low)
        return scaled
    valid = x[x.isfinite()]
    if valid.numel() and (valid.amin() < -1e-4 or valid.amax() > 1 + 1e-4):
        raise ValueError(
            f"{name}: expected floating-point values in [0, 1], got values in [{valid.amin():g}, {valid.amax():g}]. Pass "
            f"integers for raw values in [{low}, {high}], or scale them."
        )
    return x.to(torch.float32)


def positive(settings: Mapping[str, Any], key: str, *, whole: bool = True, optional: bool = True) -> None:
    """Raise ValueError unless a setting is a number above 0, or None if optional."""
    value = settings[key]
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
        raise ValueError(f"{key}: expected a {'whole ' if whole else ''}number above 0, got {value!r}.")


def as_tensor(raw: Any, name: str) -> Tensor:
    if isinstance(raw, Tensor):
        return raw
    if isinstance(raw, np.ndarray | list):
        # Torch rejects negative strides, and warns about read-only memory.
        try:
            return torch.as_tensor(np.require(raw, requirements=["C", "W"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: cannot be converted to a tensor: {error}") from None
    raise TypeError(f"{name}: expected a tensor, an array or (for images) a PIL image, got {type(raw).__name__}.")


def check_shape(x: Tensor, spec: ModalitySpec, name: str) -> None:
    shape = spec.get("shape")
    if shape is None:
        return
    fits = x.ndim == len(shape) and all(own is None or own == size for own, size in zip(shape, x.shape, strict=True))
    if not fits:
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(
            f"{name}: expected shape {expected} as in training, got {tuple(x.shape)}. Resize or convert it first, or call"
            " the model on tensors, where other sizes are allowed."
        )
