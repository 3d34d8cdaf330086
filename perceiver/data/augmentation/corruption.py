"""Corruption of batches of images by occlusion or noise, with separate random parameters for every image.

Each takes floating-point images in [0, 1], `(C, H, W)` or `(B, C, H, W)`, and returns the same. See
`perceiver.data.augmentation.images` for the contract of the attribute `draws_per_image`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "*batch channels height width"]


class RandomOcclusion(nn.Module):
    """Hide a rectangle of every image, at a random position inside the image.

    Args:
        side: (smallest, largest) hidden share of height and width, uniformly distributed, rounded to pixels.
        fill: value of hidden pixels, in [0, 1].
    """

    draws_per_image = True

    def __init__(self, *, side: Sequence[float], fill: float = 0.0) -> None:
        super().__init__()
        if len(side) != 2 or not 0 <= side[0] <= side[1] <= 1:
            raise ValueError(f"RandomOcclusion.side: expected 0 <= smallest <= largest <= 1, got {list(side)}.")
        if not 0 <= fill <= 1:
            raise ValueError(f"RandomOcclusion.fill: expected 0 to 1, got {fill}.")
        self.side = (float(side[0]), float(side[1]))
        self.fill = float(fill)

    def forward(self, images: Images) -> Images:
        """Transform one image or a batch; the shape is unchanged."""
        batch = images.unsqueeze(0) if images.ndim == 3 else images
        number, _, *size = batch.shape
        low, high = self.side
        side = low + (high - low) * torch.rand(number, 1, device=batch.device)
        lengths = (side * torch.tensor(size, device=batch.device)).round()
        # All positions inside the image are equally likely.
        room = torch.tensor(size, device=batch.device) - lengths + 1
        first = torch.minimum((torch.rand_like(room) * room).floor(), room - 1)
        rows, columns = (
            (torch.arange(size[axis], device=batch.device) >= first[:, axis, None])
            & (torch.arange(size[axis], device=batch.device) < (first + lengths)[:, axis, None])
            for axis in (0, 1)
        )
        hidden = (rows[:, :, None] & columns[:, None, :])[:, None]
        return batch.masked_fill(hidden, self.fill).view_as(images)

    def extra_repr(self) -> str:
        return f"side={self.side}, fill={self.fill}"


class RandomPixelNoise(nn.Module):
    """Add Gaussian noise to every pixel, and clip to [0, 1].

    Args:
        std: (smallest, largest) standard deviation of the noise before clipping, uniformly distributed over images.
    """

    draws_per_image = True

    def __init__(self, *, std: Sequence[float]) -> None:
        super().__init__()
        if len(std) != 2 or not 0 <= std[0] <= std[1] < float("inf"):
            raise ValueError(f"RandomPixelNoise.std: expected 0 <= smallest <= largest, got {list(std)}.")
        self.std = (float(std[0]), float(std[1]))

    def forward(self, images: Images) -> Images:
        """Transform one image or a batch; the shape is unchanged."""
        low, high = self.std
        leading = (*images.shape[:-3], 1, 1, 1)
        level = low + (high - low) * torch.rand(leading, device=images.device, dtype=images.dtype)
        return (images + torch.randn_like(images) * level).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"std={self.std}"
