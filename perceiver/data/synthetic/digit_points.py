"""MNIST as point sets: positions and amount of ink, without grid, order or background."""

import os
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.loading.images import LabelledImages
from perceiver.data.loading.samples import Samples
from perceiver.data.loading.source import Source
from perceiver.data.readers.points import PointSets


class DigitPoints(Source):
    """Inked pixels of MNIST as sets of about 150 points (x, y, ink), with the splits of MNIST.

    x runs from -1, the left edge, to 1, y from -1, the top, to 1, ink from 0 to 1. A set has a point per inked pixel.
    Batches hold `inputs["points"]` `(B, P, 3)`, padded to their largest set, and `masks["points"]` `(B, P)`.

    Args:
        root: folder with `MNIST/raw/`; see `perceiver.data.MNIST`.
        validation_size: number of the 60,000 training images used for validation.
        split_seed: seed of this split; not the training seed.
        max_points: larger sets are thinned at random, the same way in every epoch. None: no limit.
        download: download absent files. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.MNIST`.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        validation_size: int = 5000,
        split_seed: int = 0,
        max_points: int | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(
            specs={"points": {"kind": "points", "shape": [None, 3]}},
            class_names=[str(digit) for digit in range(10)],
            split_seed=split_seed,
        )
        if max_points is not None and max_points < 1:
            raise ValueError(f"data.max_points: expected 1 or more, or null, got {max_points}.")
        self.max_points = max_points
        self._images = MNIST(root=Path(root), validation_size=validation_size, split_seed=split_seed, download=download)

    def prepare(self) -> None:
        """Download absent files and check all files, as `MNIST`."""
        self._images.prepare()

    def read_training(self) -> tuple[Samples, Samples]:
        """Return 55,000 and 5,000 sets by default, from the images of `MNIST`'s splits."""
        training, validation = self._images.read_training()
        return self._sets(training), self._sets(validation)

    def read_test(self) -> Samples:
        """Return the 10,000 official test images as sets."""
        return self._sets(self._images.read_test())

    def _sets(self, images: LabelledImages) -> PointSets:
        def identify(index: int) -> str:
            return f"{images.ids}/{int(images.numbers[index])}"

        pixels = images.pixels[:, 0]
        blank = (pixels.flatten(1).amax(dim=1) == 0).nonzero()
        if len(blank):
            raise ValueError(f"sample {identify(int(blank[0]))!r}: expected a digit, got an image without ink.")
        if self.max_points is not None:
            pixels = thinned(pixels, self.max_points)
        sizes = (pixels > 0).flatten(1).sum(dim=1)
        ends = sizes.cumsum(dim=0)
        return PointSets(
            points=inked_points(pixels),
            starts=ends - sizes,
            ends=ends,
            labels=images.labels.tolist(),
            identify=identify,
        )


def inked_points(pixels: UInt8[Tensor, "*images height width"]) -> Float[Tensor, "points 3"]:
    """Return the inked pixels of one or several images, concatenated: x and y in [-1, 1], ink in (0, 1].

    `Perceiver.predict` of a model trained on `DigitPoints` takes an image in this form.

    Args:
        pixels: 0 is paper, 255 is black ink.
    """
    where = pixels.nonzero()
    height, width = pixels.shape[-2:]
    x, y = 2 * where[:, -1] / (width - 1) - 1, 2 * where[:, -2] / (height - 1) - 1
    return torch.stack([x, y, pixels[pixels > 0] / 255], dim=-1)


def thinned(pixels: UInt8[Tensor, "images height width"], max_points: int) -> UInt8[Tensor, "images height width"]:
    """Keep at most `max_points` inked pixels per image, chosen at random with a fixed seed."""
    draw = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)).flatten(1)
    draw = torch.where(pixels.flatten(1) > 0, draw, draw.new_zeros(()))
    if max_points >= draw.shape[1]:
        return pixels
    threshold = draw.topk(max_points + 1, dim=1).values[:, -1:]
    return pixels * (draw > threshold).view(pixels.shape)
