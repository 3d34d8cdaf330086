"""Augmentation of whole batches of images, with separate random parameters for every image.

Transforms of torchvision draw one set of parameters per call, so a batch of 64 takes 64 calls of about 250 microseconds
each. A transform with the attribute `draws_per_image = True` gets the whole batch `(B, C, H, W)` in one call, and must draw
separate parameters for every image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RandomAffine(nn.Module):
    """Rotate, shift, scale and shear every image at random about its centre; bilinear, one value outside.

    Arguments are as in `torchvision.transforms.v2.RandomAffine`, but a batch takes one call: about 1 ms instead of 16 ms for
    64 images of 28 x 28 on one core.

    Args:
        degrees: rotation is uniform in [-degrees, degrees].
        translate: largest shift (horizontal, vertical) as fractions of width and height.
        scale: (smallest, largest) factor, the same for both axes.
        shear: the horizontal shear angle is uniform in [-shear, shear] degrees.
        fill: value outside the image, in [0, 1]; black is 0.
    """

    draws_per_image = True

    def __init__(
        self,
        *,
        degrees: float = 0.0,
        translate: Sequence[float] = (0.0, 0.0),
        scale: Sequence[float] = (1.0, 1.0),
        shear: float = 0.0,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= degrees <= 180:
            raise ValueError(f"RandomAffine.degrees: expected 0 to 180, got {degrees}.")
        if len(translate) != 2 or not all(0 <= fraction <= 1 for fraction in translate):
            raise ValueError(
                f"RandomAffine.translate: expected two fractions (horizontal, vertical) in [0, 1], got {list(translate)}."
            )
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"RandomAffine.scale: expected 0 < smallest <= largest, got {list(scale)}.")
        if not 0 <= shear < 90:
            raise ValueError(f"RandomAffine.shear: expected 0 to less than 90 degrees, got {shear}.")
        if not 0 <= fill <= 1:
            raise ValueError(f"RandomAffine.fill: expected 0 to 1, got {fill}.")
        self.degrees = degrees
        self.translate = (translate[0], translate[1])
        self.scale = (scale[0], scale[1])
        self.shear = shear
        self.fill = float(fill)

    def forward(
        self, images: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Transform one image `(C, H, W)` or a batch `(B, C, H, W)`; the shape is unchanged."""
        batch = images.unsqueeze(0) if images.ndim == 3 else images
        grid = F.affine_grid(self.draw(batch), list(batch.shape), align_corners=False)
        # Outside, grid_sample has zeros.
        shifted = batch - self.fill if self.fill else batch
        moved = F.grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (moved + self.fill if self.fill else moved).view_as(images)

    def draw(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 2 3"]:
        """Draw a random map for every image, in the form of `inverse_affine`."""
        batch, _, height, width = images.shape
        uniform = torch.rand(5, batch, device=images.device, dtype=images.dtype) * 2 - 1
        return inverse_affine(
            angle=uniform[0] * math.radians(self.degrees),
            shift=uniform[1:3] * uniform.new_tensor(self.translate).view(2, 1),
            scale=(self.scale[0] + self.scale[1]) / 2 + uniform[3] * (self.scale[1] - self.scale[0]) / 2,
            shear=uniform[4] * math.radians(self.shear),
            aspect=height / width,
        )

    def extra_repr(self) -> str:
        return (
            f"degrees={self.degrees}, translate={self.translate}, scale={self.scale}, shear={self.shear}, fill={self.fill}"
        )


class RandomShiftFlip(nn.Module):
    """Shift every image by whole pixels and mirror half of the images; pixels from outside are black.

    Equivalent to `torchvision.transforms.v2.RandomCrop(size, padding=shift)` and `RandomHorizontalFlip`, but with one gather
    per batch.

    Args:
        shift: largest shift in pixels, vertical and horizontal; 0: no shift.
        flip: mirror every image left to right with probability 0.5.
    """

    draws_per_image = True

    def __init__(self, *, shift: int, flip: bool = True) -> None:
        super().__init__()
        if shift < 0:
            raise ValueError(f"RandomShiftFlip.shift: expected a number of pixels, 0 or more, got {shift}.")
        self.shift = shift
        self.flip = flip

    def forward(
        self, images: Float[Tensor, "*batch channels height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Transform one image `(C, H, W)` or a batch `(B, C, H, W)`; the shape is unchanged."""
        batch = images.unsqueeze(0) if images.ndim == 3 else images
        count, channels, height, width = batch.shape
        padded = F.pad(batch, (self.shift,) * 4)
        top, left = torch.randint(0, 2 * self.shift + 1, (2, count, 1), device=batch.device)
        rows = top + torch.arange(height, device=batch.device)
        columns = left + torch.arange(width, device=batch.device)
        if self.flip:
            mirrored = torch.rand(count, 1, device=batch.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        sample = torch.arange(count, device=batch.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=batch.device).view(-1, 1, 1)
        return padded[sample, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)].view_as(images)

    def extra_repr(self) -> str:
        return f"shift={self.shift}, flip={self.flip}"


class Chain(nn.Module):
    """Sequence of transforms: transforms that draw per image get whole batches, the others single images.

    `torchvision.transforms.v2.Compose` also works, but passes only single images to all its transforms.

    Args:
        transforms: maps of float images `(C, H, W)` in [0, 1] to the same shape, or, with a true attribute
            `draws_per_image`, of batches `(B, C, H, W)`.
    """

    draws_per_image = True

    def __init__(self, *, transforms: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        if not transforms:
            raise ValueError("Chain.transforms: expected at least one transform, got none; use augment=null.")
        self.transforms = list(transforms)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Transform a batch; the shape is unchanged."""
        for transform in self.transforms:
            images = augmented(transform, images)
        return images

    def extra_repr(self) -> str:
        return ", ".join(repr(transform) for transform in self.transforms)


def inverse_affine(
    *,
    angle: Float[Tensor, "batch"],
    shift: Float[Tensor, "2 batch"],
    scale: Float[Tensor, "batch"],
    shear: Float[Tensor, "batch"],
    aspect: float,
) -> Float[Tensor, "batch 2 3"]:
    """Return maps from output to input coordinates for `shift(rotation(scale(horizontal shear)))`, as in torchvision.

    Args:
        angle: rotation in radians, clockwise.
        shift: (horizontal, vertical) in fractions of width and height.
        scale: factor of both axes.
        shear: horizontal shear angle in radians.
        aspect: height / width; coordinates are [-1, 1] along both axes, so x and y have different units.
    """
    cosine, sine, slope = torch.cos(angle) / scale, torch.sin(angle) / scale, torch.tan(shear)
    xx, xy = cosine - slope * sine, (sine + slope * cosine) * aspect
    yx, yy = -sine / aspect, cosine
    shift_x, shift_y = 2 * shift
    offset_x, offset_y = -(xx * shift_x + xy * shift_y), -(yx * shift_x + yy * shift_y)
    return torch.stack([xx, xy, offset_x, yx, yy, offset_y], dim=-1).view(-1, 2, 3)


def augmented(transform: Callable[[Tensor], Any], images: Float[Tensor, "batch channels height width"]) -> Any:
    """Transform a batch, in one call if the transform `draws_per_image`, otherwise image by image, without checks."""
    if getattr(transform, "draws_per_image", False):
        return transform(images)
    return torch.stack([transform(image) for image in images])
