"""Images of any size, mode and orientation -> upright RGB images with 8 bits per channel, of one size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps


class Frame:
    """Scales an image until it covers size / crop_fraction, and cuts `size` out of the centre; in one resampling.

    Args:
        size: (height, width) of the result.
        crop_fraction: see there; 0.875 is the custom for ImageNet (224 of 256).

    Raises:
        ValueError: not two positive sizes, or a fraction outside (0, 1].
    """

    def __init__(self, *, size: Sequence[int], crop_fraction: float = 1.0) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"data.size: expected [height, width] in pixels, at least 1 each, got {list(size)}.")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction: expected a share above 0, at most 1, got {crop_fraction}.")
        self.height, self.width = size
        self.crop_fraction = crop_fraction

    def __call__(
        self, image: Image.Image, *, resample: Image.Resampling = Image.Resampling.BICUBIC
    ) -> Image.Image:
        """An image of any size -> one of `size`; `resample` is how, NEAREST for pixels that are class numbers."""
        wanted = (self.width, self.height)
        if image.size == wanted and self.crop_fraction == 1:
            return image
        width, height = image.size
        scale = max(self.width / width, self.height / height) / self.crop_fraction
        half_width, half_height = self.width / scale / 2, self.height / scale / 2
        # Rounding must not reach beyond the image.
        box = (
            max(width / 2 - half_width, 0.0),
            max(height / 2 - half_height, 0.0),
            min(width / 2 + half_width, float(width)),
            min(height / 2 + half_height, float(height)),
        )
        return image.resize(wanted, resample, box=box)


def upright(image: Image.Image) -> Image.Image:
    """Turned or mirrored as its EXIF data says; the image itself where they say nothing."""
    with suppress(Exception):  # EXIF data may be garbage beside good pixels; bad pixels fail in what comes next
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB with 8 bits per channel; transparency is dropped, 16 bits are scaled.

    Raises:
        ValueError: its pixels are floating-point or 32-bit numbers, whose range nothing says.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels (mode {image.mode}) have no known range; save it with 8 or 16 bits per channel")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # PIL would cut off at 255
    if image.mode == "P":
        image = image.convert("RGBA")  # some palettes hold transparency that a conversion to RGB stumbles over
    return image.convert("RGB")
