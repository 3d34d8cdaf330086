"""Images and videos: PIL images, arrays and tensors to channels-first tensors in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, scale
from perceiver.modalities.framing import Frame, to_rgb, upright


def image(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    if isinstance(raw, Image.Image):
        raw = np.array(_pixels(raw, modality, name))
    if isinstance(raw, np.ndarray) and raw.ndim == 3:
        raw = np.moveaxis(raw, -1, 0)
    x = as_tensor(raw, name)
    return scale(x[None] if x.ndim == 2 else x, modality, name=name)


def _pixels(image: Image.Image, modality: Mapping[str, Any], name: str) -> Image.Image:
    """In the mode of the training images and, where these were framed, in their size."""
    image.load()  # an array made of an image without its pixels may be empty
    channels, *size = modality["shape"]
    framed = "crop_fraction" in modality
    if (channels == 3 and list(modality.get("range", (0, 255))) == [0, 255]) or (channels == 1 and framed):
        try:
            image = to_rgb(upright(image), deep_range=modality.get("deep_range"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from None
        image = Frame(size=size, crop_fraction=modality["crop_fraction"])(image) if framed else image
        return image if channels == 3 else image.convert("L")
    # More than 8 bits per pixel (modes I, I;16, F) would be cut off by a conversion to L.
    return image.convert("L") if channels == 1 and image.mode[0] not in "IF" else image


def video(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    if isinstance(raw, list | tuple) and raw and all(isinstance(frame, Image.Image) for frame in raw):
        channels, _, *size = modality["shape"]
        still = {**modality, "shape": [channels, *size]}
        frames = [image(frame, still, f"{name}, frame {number}") for number, frame in enumerate(raw)]
        if sizes := {tuple(frame.shape) for frame in frames[1:]} - {tuple(frames[0].shape)}:
            raise ValueError(f"{name}: expected frames of one size, got {tuple(frames[0].shape)} and {sizes.pop()}.")
        return torch.stack(frames, dim=1)
    if isinstance(raw, np.ndarray) and raw.ndim == 4:
        raw = np.moveaxis(raw, -1, 0)
    x = as_tensor(raw, name)
    return scale(x[None] if x.ndim == 3 else x, modality, name=name)
