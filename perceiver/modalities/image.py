"""Images and videos: PIL images, arrays and tensors to channels-first tensors in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, positive, scale
from perceiver.modalities.media.framing import RESAMPLING, Frame, pixels_of
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.statistics import require_any


@final
class ImageModality(Modality):
    """Images: PIL images, arrays `(H, W)` or `(H, W, C)`, tensors `(C, H, W)` -> `(C, H, W)`.

    Integers lie in the spec's `range`, floating-point values in [0, 1]. PIL images are rotated according to EXIF and,
    if the spec has a `crop_fraction`, scaled and cropped as in training (`framing.Frame`).
    """

    channel_axis = 0
    settings: ClassVar = {"size": None, "channels": 3, "crop_fraction": 1.0, "deep_range": None, "interpolation": None}
    peak = 1.0

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return shape, range and framing."""
        return _framed(settings)

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one image to [0, 1]."""
        return _image(raw, spec, name)

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return mean and standard deviation of each channel."""
        return _pixel_statistics(samples)


@final
class VideoModality(Modality):
    """Videos: arrays `(T, H, W)` or `(T, H, W, C)`, tensors `(C, T, H, W)`, lists of PIL images -> `(C, T, H, W)`.

    Values and frames are as for images.
    """

    channel_axis = 0
    settings: ClassVar = {**ImageModality.settings, "num_frames": 16}
    peak = 1.0

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the spec of images, with the number of frames in the shape; None: any number."""
        positive(settings, "num_frames")
        spec = _framed(settings)
        channels, height, width = spec["shape"]
        return {**spec, "shape": [channels, settings["num_frames"], height, width]}

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one video to [0, 1]."""
        if isinstance(raw, list | tuple) and raw and all(isinstance(frame, Image.Image) for frame in raw):
            channels, _, *size = spec["shape"]
            still = {**spec, "shape": [channels, *size]}
            frames = [_image(frame, still, f"{name}, frame {number}") for number, frame in enumerate(raw)]
            if sizes := {tuple(frame.shape) for frame in frames[1:]} - {tuple(frames[0].shape)}:
                raise ValueError(f"{name}: expected frames of one size, got {tuple(frames[0].shape)} and {sizes.pop()}.")
            return torch.stack(frames, dim=1)
        if isinstance(raw, np.ndarray) and raw.ndim == 4:
            raw = np.moveaxis(raw, -1, 0)
        x = as_tensor(raw, name)
        return scale(x[None] if x.ndim == 3 else x, spec, name=name)

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return mean and standard deviation of each channel."""
        return _pixel_statistics(samples)


def _framed(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["channels"] not in (1, 3):
        raise ValueError(f"channels: expected 3 (colour) or 1 (grey), got {settings['channels']!r}.")
    frame = Frame(size=settings["size"], crop_fraction=settings["crop_fraction"])
    deep = settings["deep_range"]
    if deep is not None and (len(deep) != 2 or not deep[0] < deep[1]):
        raise ValueError(f"deep_range: expected [black, white] for images with more than 8 bits per pixel, got {deep!r}.")
    filter_name = settings["interpolation"]
    if filter_name is not None and filter_name not in RESAMPLING:
        raise ValueError(f"interpolation: expected one of {', '.join(RESAMPLING)}, or null, got {filter_name!r}.")
    return {
        **({} if deep is None else {"deep_range": list(deep)}),
        **({} if filter_name is None else {"interpolation": filter_name}),
        "shape": [settings["channels"], frame.height, frame.width],
        "range": [0, 255],
        "crop_fraction": frame.crop_fraction,
    }


def _image(raw: Any, spec: ModalitySpec, name: str) -> Tensor:
    if isinstance(raw, Image.Image):
        raw = np.array(pixels_of(raw, spec, name=name))
    if isinstance(raw, np.ndarray) and raw.ndim == 3:
        raw = np.moveaxis(raw, -1, 0)
    x = as_tensor(raw, name)
    return scale(x[None] if x.ndim == 2 else x, spec, name=name)


def _pixel_statistics(samples: Iterable[Any]) -> dict[str, Any]:
    """Return mean and standard deviation of each channel, for images and videos, channels first."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in samples:
        flat = x.double().flatten(1)
        count, total, squares = count + flat.shape[1], total + flat.sum(dim=1), squares + flat.square().sum(dim=1)
    require_any(count)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if float(std.max()) <= 1e-6:
        raise ValueError("all training images are a single colour and cannot be normalised.")
    return {"mean": mean.tolist(), "std": [value if value > 1e-6 else 1.0 for value in std.tolist()]}
