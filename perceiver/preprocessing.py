"""From raw samples to the tensors a model was trained on: one function for training, validation and prediction.

Everything it needs stands in the spec of the modality, which goes into the checkpoint with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.framing import Frame, to_rgb, upright


def preprocess(raw: Any, *, modality: Mapping[str, Any], name: str) -> Tensor:
    """One raw sample of one modality -> float32 tensor in the model's layout, scaled and normalised.

    Images are PIL images, arrays or tensors `(H, W)`, `(H, W, C)` (arrays) or `(C, H, W)` (tensors): integers lie in the
    spec's `range`, floating-point values in [0, 1]. PIL images are turned upright as EXIF says, and where the spec has a
    `crop_fraction`, scaled and cropped as in training (`perceiver.framing.Frame`). Sound is `(samples,)` or `(channels,
    samples)`, integers in the range of their type, or a pair of that and its sample rate, which is resampled where it
    differs. Other kinds are arrays or tensors of the shape that their adapter takes; point sets are centred and scaled first
    if the spec says `unit_sphere`.

    Args:
        raw: the sample.
        modality: its spec: `kind`, `shape` (None for free sizes) and, also `range`, `mean`, `std`, `sample_rate`.
        name: what error messages call it.

    Raises:
        ValueError: if shape or range are not those of the spec.
        TypeError: if it is nothing of the kinds above.
    """
    kind = modality.get("kind")
    if kind == "image":
        x = _image(raw, modality, name)
    elif kind == "audio":
        x = _audio(raw, modality, name)
    else:
        x = _tensor(raw, name).to(torch.float32)
    _check_shape(x, modality, name)
    if modality.get("unit_sphere"):
        x = to_unit_sphere(x)
    return normalise(x, modality)


def to_unit_sphere(points: Tensor, *, num_coordinates: int = 3) -> Tensor:
    """A point set `(P, coordinates + features)`, moved to the mean of its points and scaled so that the farthest is at 1.

    A set whose points are all in one place stays at 0.
    """
    coordinates = points[:, :num_coordinates]
    coordinates = coordinates - coordinates.mean(dim=0)
    radius = torch.linalg.vector_norm(coordinates, dim=1).amax()
    scaled = coordinates / torch.where(radius > 0, radius, torch.ones_like(radius))
    return torch.cat([scaled, points[:, num_coordinates:]], dim=1)


def scale(x: Tensor, modality: Mapping[str, Any], *, name: str = "image") -> Tensor:
    """Integers of the spec's `range`, booleans, or floats in [0, 1], to float32 in [0, 1]; any shape."""
    low, high = modality.get("range", (0, 255))
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


def normalise(x: Tensor, modality: Mapping[str, Any]) -> Tensor:
    """Subtract the spec's `mean` and divide by its `std`, per channel; any leading batch dimensions."""
    if "mean" not in modality:
        return x
    axis = modality.get("channel_axis", -1 if modality.get("kind") == "points" else 0)
    shape = modality["shape"]
    trailing = 0 if axis == -1 else len(shape) - 1
    mean, std = (torch.tensor(modality[key], dtype=torch.float32).reshape(-1, *[1] * trailing) for key in ("mean", "std"))
    normalised: Tensor = (x - mean.to(x.device)) / std.to(x.device)
    return normalised


def _image(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    if isinstance(raw, Image.Image):
        raw = np.array(_pixels(raw, modality, name))
    if isinstance(raw, np.ndarray) and raw.ndim == 3:
        raw = np.moveaxis(raw, -1, 0)
    x = _tensor(raw, name)
    return scale(x[None] if x.ndim == 2 else x, modality, name=name)


def _pixels(image: Image.Image, modality: Mapping[str, Any], name: str) -> Image.Image:
    """In the mode of the training images and, where these were framed, in their size."""
    channels, *size = modality["shape"]
    if channels == 3 and list(modality.get("range", (0, 255))) == [0, 255]:
        try:
            image = to_rgb(upright(image))
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from None
        return image if "crop_fraction" not in modality else Frame(size=size, crop_fraction=modality["crop_fraction"])(image)
    # More than 8 bits per pixel (modes I, I;16, F) would be cut off by a conversion to L.
    return image.convert("L") if channels == 1 and image.mode[0] not in "IF" else image


def _audio(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    rate = None
    if isinstance(raw, tuple) and len(raw) == 2:
        raw, rate = raw
    x = _tensor(raw, name)
    if not x.is_floating_point():
        limits = torch.iinfo(x.dtype)
        middle = (limits.min + limits.max + 1) / 2  # unsigned sound is silent in the middle of its range
        x = (x.to(torch.float64) - middle) / (limits.max + 1 - middle)
    x = x.to(torch.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim == 2 and x.shape[0] > x.shape[1] > 0:
        raise ValueError(f"{name}: expected (channels, samples), got {tuple(x.shape)}; transpose it.")
    if modality["shape"][0] == 1 and x.ndim == 2 and x.shape[0] > 1:
        x = x.mean(dim=0, keepdim=True)
    if rate is not None and rate != modality["sample_rate"]:
        from torchaudio.functional import resample  # slow to import, seldom needed

        x = resample(x, int(rate), int(modality["sample_rate"]))
    return x


def _tensor(raw: Any, name: str) -> Tensor:
    if isinstance(raw, Tensor):
        return raw
    if isinstance(raw, np.ndarray | list):
        # Torch takes neither negative strides nor, without a warning, read-only memory.
        try:
            return torch.as_tensor(np.require(raw, requirements=["C", "W"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: no tensor can be made of it: {error}") from None
    raise TypeError(f"{name}: expected a tensor, an array or (for images) a PIL image, got {type(raw).__name__}.")


def _check_shape(x: Tensor, modality: Mapping[str, Any], name: str) -> None:
    shape = modality.get("shape")
    if shape is None:
        return
    fits = x.ndim == len(shape) and all(own is None or own == size for own, size in zip(shape, x.shape, strict=True))
    if not fits:
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(
            f"{name}: expected shape {expected} as in training, got {tuple(x.shape)}. Resize or convert it first, or call"
            " the model on tensors, where other sizes are allowed."
        )
