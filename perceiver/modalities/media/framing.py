"""Images of any size, mode and orientation -> upright RGB images with 8 bits per channel, of one size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
"""Filters for the size of images, by the word that a spec has as `interpolation`; bicubic by default."""


class Frame:
    """Scale an image until it covers size / crop_fraction, and crop `size` from the centre, in one resampling.

    Args:
        size: (height, width) of the result.
        crop_fraction: see above; 0.875 is common for ImageNet (224 of 256).

    Raises:
        ValueError: unless `size` is two positive sizes and the fraction lies in (0, 1].
    """

    def __init__(self, *, size: Sequence[int], crop_fraction: float = 1.0) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"data.size: expected [height, width] in pixels, at least 1 each, got {list(size)}.")
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction: expected a share above 0, at most 1, got {crop_fraction}.")
        self.height, self.width = size
        self.crop_fraction = crop_fraction

    def __call__(self, image: Image.Image, *, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
        """Resize an image of any size to `size`; use NEAREST as `resample` for pixels that are class numbers."""
        wanted = (self.width, self.height)
        if image.size == wanted and self.crop_fraction == 1:
            return image
        width, height = image.size
        scale = max(self.width / width, self.height / height) / self.crop_fraction
        half_width, half_height = self.width / scale / 2, self.height / scale / 2
        # Rounding must not exceed the image.
        box = (
            max(width / 2 - half_width, 0.0),
            max(height / 2 - half_height, 0.0),
            min(width / 2 + half_width, float(width)),
            min(height / 2 + half_height, float(height)),
        )
        return image.resize(wanted, resample, box=box)


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats for `PIL.Image.open`: all but EPS, which is a program that Pillow passes to Ghostscript."""
    Image.init()
    return tuple(name for name in Image.ID if name in Image.OPEN and name != "EPS")


def upright(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image according to its EXIF data, if any. Decoder errors propagate."""
    # Before errors are suppressed: after a first failure, a decoder may return a damaged image without an error.
    image.load()
    with suppress(Exception):  # EXIF data may be corrupt although the pixels are valid
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def is_deep(image: Image.Image) -> bool:
    """Return whether pixels have more than 8 bits, whose range the file does not state."""
    return image.mode[0] in "IF"


def to_rgb(image: Image.Image, *, deep_range: Sequence[float] | None = None) -> Image.Image:
    """Convert any image to RGB with 8 bits per channel; drop transparency and scale deeper pixels.

    Args:
        image: image of any mode.
        deep_range: black and white levels of images with more than 8 bits per pixel. None: 0 and 65535.

    Raises:
        ValueError: if pixels are floating-point or 32-bit numbers of unknown range, or lie outside the range.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if is_deep(image):
        values = np.asarray(image)
        low, high = deep_range or (0, 65535)
        if deep_range is None and (image.mode == "F" or values.min() < 0 or values.max() > 65535):
            raise ValueError(
                f"its pixels (mode {image.mode}) have no known range; save the image with 8 or 16 bits per channel"
            )
        if not low <= values.min() <= values.max() <= high:
            raise ValueError(
                f"its pixels, {values.min():g} to {values.max():g}, exceed the range of {low:g} to {high:g} of the training "
                "images, or of the setting deep_range"
            )
        scaled = (values.astype(np.float64) - low) / (high - low) * 255
        image = Image.fromarray((scaled + 0.5).astype(np.uint8))  # PIL would clip at 255
    if image.mode == "P":
        image = image.convert("RGBA")  # conversion of some palettes with transparency to RGB fails
    return image.convert("RGB")


def deep_range_of(images: Iterable[Image.Image]) -> list[int] | None:
    """Return the range of the training images with more than 8 bits per pixel; None without such images.

    It begins at 0 and ends at the largest number of 8, 10, 12, 14 or 16 bits that covers all pixels.

    Raises:
        ValueError: for negative or fractional pixels, or more than 16 bits, which suggest no range.
    """
    largest = None
    for image in images:
        if not is_deep(image):
            continue
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"pixels of training images (mode {image.mode}) are {values.min():g} to {values.max():g}, which does "
                "not determine the range: set deep_range to [black, white]"
            )
        largest = max(largest or 0, int(values.max()))
    if largest is None:
        return None
    return [0, next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if largest < 2**bits)]


def pixels_of(image: Image.Image, spec: Mapping[str, Any], *, name: str) -> Image.Image:
    """Convert an image to the mode of the training images and, if they were framed, to their size."""
    image.load()  # an array made from an image that is not loaded may be empty
    channels, *size = spec["shape"]
    framed = "crop_fraction" in spec
    if (channels == 3 and list(spec.get("range", (0, 255))) == [0, 255]) or (channels == 1 and framed):
        try:
            image = to_rgb(upright(image), deep_range=spec.get("deep_range"))
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from None
        resample = RESAMPLING[spec.get("interpolation") or "bicubic"]
        image = Frame(size=size, crop_fraction=spec["crop_fraction"])(image, resample=resample) if framed else image
        return image if channels == 3 else image.convert("L")
    # A conversion to L would clip more than 8 bits per pixel (modes I, I;16, F).
    return image.convert("L") if channels == 1 and image.mode[0] not in "IF" else image
