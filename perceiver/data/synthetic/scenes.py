"""Drawn scenes: movable layers of textured digits in front of a textured background, with exact ground truth.

A layer is a function of continuous local coordinates, and a pose maps these to the picture. A picture of a moved layer is
therefore drawn, not warped, and the motion of each point is given by a formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Map from local coordinates u to pixels p = centre + scale * R(angle) u.

    Args:
        centre: (column, row), in pixels.
        scale: pixels per unit.
        angle: rotation in radians, from columns towards rows.
    """

    centre: tuple[float, float]
    scale: float
    angle: float = 0.0

    def moved(self, *, shift: tuple[float, float], angle: float = 0.0, zoom: float = 1.0) -> Pose:
        """Return the pose shifted by pixels, and rotated and scaled about the centre."""
        column, row = self.centre
        return Pose(centre=(column + shift[0], row + shift[1]), scale=self.scale * zoom, angle=self.angle + angle)

    def pixels(self, own: Float[Tensor, "*places 2"]) -> Float[Tensor, "*places 2"]:
        """Map local coordinates to (column, row)."""
        cosine, sine = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        return _affine(own, [[cosine, sine], [-sine, cosine]], self.centre)

    def own(self, pixels: Float[Tensor, "*places 2"]) -> Float[Tensor, "*places 2"]:
        """Map (column, row) to local coordinates."""
        cosine, sine = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        column, row = self.centre
        return _affine(
            pixels, [[cosine, -sine], [sine, cosine]], (-cosine * column - sine * row, sine * column - cosine * row)
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a scene.

    Args:
        texture: `(C, h, w)`, colours over the square [-1, 1]² of local coordinates, interpolated.
        glyph: `(h, w)`, ink over the same square: the layer is opaque where ink exceeds 0.5. None: everywhere.
        pose: position in the picture.
        label: class of the layer.
    """

    texture: Tensor
    glyph: Tensor | None
    pose: Pose
    label: int = 0

    def covers(self, pixels: Float[Tensor, "*places 2"]) -> Bool[Tensor, "*places"]:
        """Return whether the layer is opaque at (column, row)."""
        if self.glyph is None:
            return torch.ones(pixels.shape[:-1], dtype=torch.bool)
        return _read(self.glyph[None], self.pose.own(pixels), padding="zeros")[0] > 0.5

    def colours(self, pixels: Float[Tensor, "*places 2"]) -> Float[Tensor, "channels *places"]:
        """Return the colours at (column, row)."""
        return _read(self.texture, self.pose.own(pixels), padding="reflection")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn scene.

    Args:
        pixels: `(C, H, W)`.
        top: `(H, W)`, number of the visible layer.
    """

    pixels: Tensor
    top: Tensor


def draw(layers: Sequence[Layer], *, height: int, width: int) -> Picture:
    """Draw layers from back to front; the first has no glyph, so that every pixel is covered."""
    grid = pixel_grid(height, width)
    top = topmost(layers, grid)
    pixels = layers[0].colours(grid)
    for number, layer in enumerate(layers[1:], start=1):
        seen = top == number
        if bool(seen.any()):
            pixels[:, seen] = layer.colours(grid[seen])
    return Picture(pixels=pixels, top=top)


def topmost(layers: Sequence[Layer], pixels: Float[Tensor, "*places 2"]) -> Int[Tensor, "*places"]:
    """Return the number of the visible layer at (column, row)."""
    top = torch.zeros(pixels.shape[:-1], dtype=torch.int64)
    for number, layer in enumerate(layers[1:], start=1):
        top[layer.covers(pixels)] = number
    return top


def flow_between(
    first: Sequence[Layer], second: Sequence[Layer], *, height: int, width: int
) -> tuple[Float[Tensor, "2 h w"], Bool[Tensor, "h w"]]:
    """Return the motion of each pixel between two pictures, to the right and down in pixels, and its visibility.

    Pixels that leave the picture or are occluded in it are not visible; their flow is still exact.

    Args:
        first, second: the same layers in two poses each.
        height, width: size of the pictures.
    """
    grid = pixel_grid(height, width)
    top = topmost(first, grid)
    moved = torch.empty_like(grid)
    for number, (before, after) in enumerate(zip(first, second, strict=True)):
        own = top == number
        moved[own] = after.pose.pixels(before.pose.own(grid[own]))
    within = ((moved >= 0) & (moved <= torch.tensor([width - 1, height - 1]))).all(dim=-1)
    return (moved - grid).movedim(-1, 0), within & (topmost(second, moved) == top)


def pixel_grid(height: int, width: int) -> Float[Tensor, "h w 2"]:
    """Return (column, row) of every pixel."""
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([columns, rows], dim=-1)


def random_texture(
    *, low: float, high: float, size: int, generator: torch.Generator, channels: int = 3
) -> Float[Tensor, "channels size size"]:
    """Draw smooth noise: a grid of random colours between low and high, three quarters of them near a common colour."""
    base = torch.rand(channels, 1, 1, generator=generator)
    spots = torch.rand(channels, size, size, generator=generator)
    return low + (high - low) * (0.25 * base + 0.75 * spots)


def random_glyph_layer(
    glyph: Float[Tensor, "h w"],
    *,
    label: int,
    diameter: tuple[float, float],
    height: int,
    width: int,
    generator: torch.Generator,
) -> Layer:
    """Draw a digit of random size and position, slightly rotated, in light colours.

    Args:
        glyph: ink in [0, 1].
        label: class of the digit.
        diameter: minimum and maximum side of its square, in pixels.
        height, width: size of the picture, which contains the square.
        generator: random generator.
    """
    drawn = torch.rand(4, generator=generator).tolist()
    side = diameter[0] + (diameter[1] - diameter[0]) * drawn[0]
    centre = tuple(side / 2 + max(length - 1 - side, 0.0) * one for length, one in ((width, drawn[1]), (height, drawn[2])))
    pose = Pose(centre=(centre[0], centre[1]), scale=side / 2, angle=math.radians(30 * drawn[3] - 15))
    texture = random_texture(low=0.6, high=1.0, size=4, generator=generator)
    return Layer(texture=texture, glyph=glyph, pose=pose, label=label)


def random_background(*, height: int, width: int, generator: torch.Generator) -> Layer:
    """Draw a dark texture that extends half a picture beyond every edge, with spots four pixels apart."""
    side = 2 * max(height, width)
    texture = random_texture(low=0.0, high=0.5, size=max(2, side // 4), generator=generator)
    return Layer(texture=texture, glyph=None, pose=Pose(centre=((width - 1) / 2, (height - 1) / 2), scale=side / 2))


def random_motion(layer: Layer, *, shift: float, degrees: float, zoom: float, generator: torch.Generator) -> Layer:
    """Return the layer with a random motion.

    Args:
        layer: layer to move.
        shift: maximum shift of the centre in pixels, uniform over the disc.
        degrees: maximum rotation in either direction.
        zoom: maximum relative growth or shrinkage.
        generator: random generator.
    """
    drawn = torch.rand(4, generator=generator).tolist()
    distance, direction = shift * math.sqrt(drawn[0]), 2 * math.pi * drawn[1]
    moved = layer.pose.moved(
        shift=(distance * math.cos(direction), distance * math.sin(direction)),
        angle=math.radians(degrees * (2 * drawn[2] - 1)),
        zoom=1 + zoom * (2 * drawn[3] - 1),
    )
    return replace(layer, pose=moved)


def _affine(x: Tensor, matrix: list[list[float]], offset: tuple[float, float]) -> Tensor:
    """Return `x @ matrix + offset`."""
    return torch.addmm(torch.tensor(offset), x.reshape(-1, 2), torch.tensor(matrix)).reshape(x.shape)


def _read(image: Float[Tensor, "channels h w"], own: Tensor, *, padding: str) -> Tensor:
    """Sample `(C, h, w)` over the square [-1, 1]² at local coordinates `(…, 2)` -> `(C, …)`, with bicubic interpolation."""
    places = own.reshape(1, 1, -1, 2)
    read = F.grid_sample(image[None], places, mode="bicubic", padding_mode=padding, align_corners=False)
    return read.reshape(image.shape[0], *own.shape[:-1]).clamp(0.0, 1.0)
