"""Labelled images held in memory, and the dataset that makes whole batches of them.

A per-sample pipeline (index, convert, normalise, collate) costs more than a small model's training step. Here
a batch is one gather and a few whole-tensor operations; only a per-sample augmentation brings the loop back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.batch import Batch, Sample
from perceiver.preprocessing import normalise, scale

Augment = Callable[[Tensor], Tensor]
"""A torchvision v2 transform, or anything alike: float `(C, H, W)` in [0, 1] to the same shape; see `Images`."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Raw images with their classes, as the files have them.

    Args:
        pixels: (samples, C, H, W), any real type.
        labels: (samples,), classes from 0.
        ids: what identifies the samples, without their number: "mnist/train" gives "mnist/train/17".
        numbers: (samples,), the position of each sample in the original set.
    """

    pixels: Shaped[Tensor, "samples channels height width"]
    labels: Int[Tensor, "samples"]
    ids: str
    numbers: Int[Tensor, "samples"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def take(self, index: Int[Tensor, "chosen"]) -> "LabelledImages":
        """Some of the samples, by position."""
        return LabelledImages(
            pixels=self.pixels[index], labels=self.labels[index], ids=self.ids, numbers=self.numbers[index]
        )

    def statistics(self, *, value_range: Sequence[float]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels scaled from `value_range` to [0, 1]."""
        low, high = value_range
        total = torch.zeros(self.shape[0], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in torch.split(self.pixels, 1024):  # a float64 copy of a whole set is eight times its size
            scaled = (chunk.double() - low) / (high - low)
            total += scaled.sum(dim=(0, 2, 3))
            squares += scaled.square().sum(dim=(0, 2, 3))
        count = self.pixels.numel() / self.shape[0]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        return mean.tolist(), deviation.tolist()


class Images(Dataset[Sample]):
    """Labelled images as samples, or as whole batches: the DataLoader asks `__getitems__` for all indices at once.

    Pixels are scaled from the modality's `range` to [0, 1], augmented, and normalised by its `mean` and `std`.

    Args:
        images: raw images and labels.
        modality: the spec of the modality "image": `range`, `mean`, `std`.
        augment: called on every image `(C, H, W)` in [0, 1], black = 0; or, if it has a true attribute
            `draws_per_image`, on the batch `(B, C, H, W)`. None: no augmentation.

    Raises:
        TypeError: `augment` cannot be called, or returns something else than a float tensor.
        ValueError: `augment` returns another shape.
    """

    def __init__(self, *, images: LabelledImages, modality: Mapping[str, Any], augment: Augment | None = None) -> None:
        self.images = images
        self.modality = modality
        self.augment = augment
        if augment is not None:
            self._check_augment(augment)

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> Sample:
        batch = self.__getitems__([index])
        pixels, target = batch.inputs["image"], batch.target
        assert isinstance(pixels, Tensor)
        assert target is not None
        return Sample(inputs={"image": pixels[0]}, target=int(target[0]), id=batch.ids[0])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of samples, already collated."""
        index = torch.as_tensor(indices)
        pixels = scale(self.images.pixels[index], self.modality)
        if self.augment is not None:
            if getattr(self.augment, "draws_per_image", False):
                pixels = self.augment(pixels)
            else:
                pixels = torch.stack([self.augment(image) for image in pixels])
        numbers = self.images.numbers[index].tolist()
        return Batch(
            inputs={"image": normalise(pixels, self.modality)},
            target=self.images.labels[index],
            ids=[f"{self.images.ids}/{number}" for number in numbers],
        )

    def _check_augment(self, augment: Augment) -> None:
        """Tries one image, so that a transform that does not fit is reported before training starts."""
        if not callable(augment):
            raise TypeError(f"data.augment: expected a transform to call or null, got {type(augment).__name__}.")
        image = scale(self.images.pixels[:1], self.modality)
        image = image if getattr(augment, "draws_per_image", False) else image[0]
        with torch.random.fork_rng(devices=[]):
            augmented = augment(image)
        if not isinstance(augmented, Tensor) or not augmented.is_floating_point():
            kind = augmented.dtype if isinstance(augmented, Tensor) else type(augmented).__name__
            raise TypeError(f"data.augment: expected a float tensor from {augment}, got {kind}.")
        if augmented.shape != image.shape:
            raise ValueError(
                f"data.augment: {augment} turned an image of shape {tuple(image.shape)} into {tuple(augmented.shape)}; "
                "expected the same shape. Crop or resize to the size of the data, e.g. RandomCrop(size, padding=2)."
            )


def collated(batch: Any) -> Batch:
    """The DataLoader's collate function for datasets that make whole batches: nothing is left to do."""
    assert isinstance(batch, Batch)
    return batch
