"""Labelled images, held in memory or elsewhere, and the dataset that makes whole batches of them.

A per-sample pipeline (index, convert, normalise, collate) costs more than a small model's training step. Here
a batch is one read and a few whole-tensor operations; only a per-sample augmentation brings the loop back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from perceiver.batch import Batch, Sample
from perceiver.data.augmentation.images import augmented
from perceiver.modalities.arrays import scale
from perceiver.modalities.preprocess import normalise

Augment = Callable[[Tensor], Tensor]
"""A torchvision v2 transform, or anything alike: float `(C, H, W)` in [0, 1] to the same shape; see `Images`."""


@runtime_checkable
class ImageSource(Protocol):
    """Raw images of one shape with their classes, wherever they come from: memory (`LabelledImages`) or files."""

    @property
    def labels(self) -> Int[Tensor, "samples"]:
        """The class of every image, from 0."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    def read(self, index: Int[Tensor, "chosen"]) -> Shaped[Tensor, "chosen channels height width"]:
        """The raw pixels of some images, by position."""

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """What identifies these images, in messages and tables."""

    def statistics(self, *, value_range: Sequence[float]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels scaled from `value_range` to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Raw images in memory with their classes, as the files have them.

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

    def read(self, index: Int[Tensor, "chosen"]) -> Shaped[Tensor, "chosen channels height width"]:
        """The raw pixels of some images, by position."""
        return self.pixels[index]

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """What identifies these images: `ids` and their numbers."""
        return [f"{self.ids}/{number}" for number in self.numbers[index].tolist()]

    def statistics(self, *, value_range: Sequence[float]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of pixels scaled from `value_range` to [0, 1]."""
        # A float64 copy of a whole set is eight times its size: by and by.
        return channel_statistics(torch.split(self.pixels, 1024), value_range=value_range)


def channel_statistics(
    chunks: Iterable[Shaped[Tensor, "_ channels height width"]], *, value_range: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all chunks, of pixels scaled from `value_range` to [0, 1]."""
    low, high = value_range
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        scaled = (chunk.double() - low) / (high - low)
        total = total + scaled.sum(dim=(0, 2, 3))
        squares = squares + scaled.square().sum(dim=(0, 2, 3))
        count += chunk.numel() // chunk.shape[1]
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

    def __init__(self, *, images: ImageSource, modality: Mapping[str, Any], augment: Augment | None = None) -> None:
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
        pixels = scale(self.images.read(index), self.modality)
        if self.augment is not None:
            pixels = augmented(self.augment, pixels)
        return Batch(
            inputs={"image": normalise(pixels, self.modality)},
            target=self.images.labels[index],
            ids=self.images.names(index),
        )

    def _check_augment(self, augment: Augment) -> None:
        """Tries one image, so that a transform that does not fit is reported before training starts."""
        if not callable(augment):
            raise TypeError(f"data.augment: expected a transform to call or null, got {type(augment).__name__}.")
        with torch.random.fork_rng(devices=[]):
            image = scale(self.images.read(torch.tensor([0])), self.modality)
            image = image if getattr(augment, "draws_per_image", False) else image[0]
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
