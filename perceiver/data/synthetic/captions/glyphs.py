"""Handwritten digits in two sizes, cut to their ink, for drawing thousands of scenes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from perceiver.data.loading.images import LabelledImages

LARGE, SMALL = 20, 13
"""Sides in pixels. MNIST's digits fill 20 x 20 of their 28 x 28 pixels."""

_INK = 64  # of 255: fainter pixels are outside a digit's box
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """The digits of a split.

    Args:
        small: `(digits, 13, 13)`, ink from 0 to 255.
        large: `(digits, 20, 20)`.
        boxes: `(digits, 2, 4)`, box of the ink in the small and in the large square; see `ink_boxes`.
        labels: `(digits,)`.
    """

    small: UInt8[Tensor, "digits 13 13"]
    large: UInt8[Tensor, "digits 20 20"]
    boxes: Int[Tensor, "digits 2 4"]
    labels: Int[Tensor, "digits"]

    @classmethod
    def of(cls, images: LabelledImages) -> Glyphs:
        """Cut out the digits of MNIST's images `(1, 28, 28)`, and make them smaller."""
        large = torch.cat([_cut(chunk[:, 0]) for chunk in images.pixels.split(_CHUNK)])
        small = torch.cat([_smaller(chunk) for chunk in large.split(_CHUNK)])
        boxes = torch.stack([ink_boxes(small), ink_boxes(large)], dim=1)
        return cls(small=small, large=large, boxes=boxes, labels=images.labels)

    def drawn(
        self, numbers: Tensor, *, large: Tensor, top: Tensor, left: Tensor, present: Tensor, canvas: int
    ) -> UInt8[Tensor, "batch canvas canvas"]:
        """Draw scenes of digits that do not overlap.

        Args:
            numbers: `(B, digits)`, which glyphs to draw.
            large: `(B, digits)`, their sizes.
            top, left: `(B, digits)`, first row and column of their squares.
            present: `(B, digits)`, whether they are drawn.
            canvas: height and width of the scenes.
        """
        pixels = torch.zeros(len(numbers), canvas, canvas, dtype=torch.uint8)
        for glyphs, size in ((self.small, False), (self.large, True)):
            row, digit = (present & (large == size)).nonzero(as_tuple=True)
            side = torch.arange(glyphs.shape[1])
            rows = top[row, digit][:, None, None] + side[:, None]
            columns = left[row, digit][:, None, None] + side
            pixels[row[:, None, None], rows, columns] = glyphs[numbers[row, digit]]
        return pixels


def ink_boxes(ink: UInt8[Tensor, "digits side side"]) -> Int[Tensor, "digits 4"]:
    """Return the box of each digit's ink: first row, one past the last, first column, one past the last."""
    found = []
    for axis in (2, 1):
        inked = (ink > _INK).any(dim=axis).int()
        size = inked.shape[1]
        found += [inked.argmax(dim=1), size - inked.flip(1).argmax(dim=1)]
    return torch.stack(found, dim=1)


def _cut(pixels: Tensor) -> Tensor:
    """Return the square of side `LARGE` about the middle of each digit's ink."""
    box = ink_boxes(pixels)
    start = (box[:, 0::2] + box[:, 1::2] - LARGE) // 2
    places = start[:, :, None] + torch.arange(LARGE)
    size = pixels.shape[-1]
    inside = (places >= 0) & (places < size)
    rows, columns = places.clamp(0, size - 1).unbind(dim=1)
    cut = pixels[torch.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut * (inside[:, 0, :, None] & inside[:, 1, None, :])


def _smaller(ink: Tensor) -> Tensor:
    size = (SMALL, SMALL)
    resized = F.interpolate(ink[:, None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[:, 0].round().clamp(0, 255).to(torch.uint8)
