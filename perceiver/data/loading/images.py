"""Labelled images as a split that is read in whole batches.

A per-sample pipeline (index, convert, normalise, collate) costs more than a small model's training step. Here
a batch is one read and a few whole-tensor operations; only a per-sample augmentation needs a loop.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from perceiver.data.loading.samples import only_sample
from perceiver.modalities.arrays import scale
from perceiver.samples.batch import Batch, Sample

MODALITY = "image"


class Images(ABC):
    """A split of raw images of equal shape with their classes, from any storage.

    Attributes:
        labels: `(samples,)`, the class of every image, from 0.
        value_range: (smallest, largest) raw pixel value; black and white.
        labelled: whether `labels` are known; False for prediction.
    """

    labels: Int[Tensor, "samples"]
    value_range: Sequence[int]
    labelled: bool = True

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""

    @abstractmethod
    def read(self, index: Int[Tensor, "chosen"]) -> Shaped[Tensor, "chosen channels height width"]:
        """Return the raw pixels of the images at these positions."""

    @abstractmethod
    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """Return the ids of these images for messages and tables."""

    @abstractmethod
    def statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, for pixels in [0, 1]."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample whose tensor is `(C, H, W)`, float in [0, 1]."""
        return only_sample(self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a collated batch of samples."""
        index = torch.as_tensor(indices)
        return Batch(
            inputs={MODALITY: scale(self.read(index), {"range": self.value_range})},
            target=self.labels[index] if self.labelled else None,
            ids=self.names(index),
        )


@dataclass(frozen=True, kw_only=True)
class LabelledImages(Images):
    """Raw images in memory with their classes, as stored in the files.

    Args:
        pixels: (samples, C, H, W), any real type.
        labels: (samples,), classes from 0.
        ids: prefix of the ids: "mnist/train" gives "mnist/train/17".
        numbers: (samples,), the position of each sample in the original set.
        value_range: (smallest, largest) raw pixel value; black and white.
    """

    pixels: Shaped[Tensor, "samples channels height width"]
    labels: Int[Tensor, "samples"]
    ids: str
    numbers: Int[Tensor, "samples"]
    value_range: Sequence[int] = (0, 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def take(self, index: Int[Tensor, "chosen"]) -> "LabelledImages":
        """Return the samples at these positions."""
        return LabelledImages(
            pixels=self.pixels[index],
            labels=self.labels[index],
            ids=self.ids,
            numbers=self.numbers[index],
            value_range=self.value_range,
        )

    def read(self, index: Int[Tensor, "chosen"]) -> Shaped[Tensor, "chosen channels height width"]:
        """Return the raw pixels of the images at these positions."""
        return self.pixels[index]

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """Return the ids of these images: `ids` and their numbers."""
        return [f"{self.ids}/{number}" for number in self.numbers[index].tolist()]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, for pixels in [0, 1]."""
        # In chunks, because a float64 copy of the whole set has eight times its size.
        return pixel_statistics(torch.split(self.pixels, 1024), value_range=self.value_range)


def pixel_statistics(
    chunks: Iterable[Shaped[Tensor, "_ channels height width"]], *, value_range: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all chunks, scaled from `value_range` to [0, 1].

    The standard deviation of a constant channel is 0.
    """
    low, high = value_range
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        scaled = (chunk.double() - low) / (high - low)
        total = total + scaled.sum(dim=(0, 2, 3))
        squares = squares + scaled.square().sum(dim=(0, 2, 3))
        count += chunk.numel() // chunk.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    # The rounding errors of the sums alone give about 1e-8.
    return mean.tolist(), [value if value > 1e-6 else 0.0 for value in deviation.tolist()]


def normalisation_entries(mean: Sequence[float], deviation: Sequence[float]) -> dict[str, list[float]]:
    """Return the entries `mean` and `std` of a spec; a constant channel has no information, and the `std` 1."""
    return {"mean": list(mean), "std": [value or 1.0 for value in deviation]}


def measured_normalisation(
    chunks: Iterable[Shaped[Tensor, "_ channels height width"]], *, value_range: Sequence[float]
) -> dict[str, list[float]]:
    """Return the entries `mean` and `std` of a spec, measured as `pixel_statistics` does."""
    return normalisation_entries(*pixel_statistics(chunks, value_range=value_range))


def image_spec(shape: Sequence[int], *, value_range: Sequence[int] = (0, 255), **more: Any) -> dict[str, dict[str, Any]]:
    """Return the specs of a source of images `(C, H, W)`."""
    return {MODALITY: {"kind": "image", "shape": list(shape), "range": list(value_range), **more}}


def of_any_size(known: dict[str, Any]) -> dict[str, Any]:
    """Return the known spec of a source of image files without the entries that may differ from training: size and crop."""
    spec = {key: fact for key, fact in known["modalities"][MODALITY].items() if key not in ("shape", "crop_fraction")}
    return {**known, "modalities": {MODALITY: spec}}


def image_statistics(
    training: Images, *, given: tuple[Sequence[float], Sequence[float]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the statistics that normalise the images of a source: `mean` and `std` of the channels.

    Args:
        training: training split, measured if `given` is None.
        given: (mean, standard deviation) of the channels, for pixels in [0, 1].

    Raises:
        ValueError: `given` does not have a number per channel, or all training images have the same colour.
    """
    mean, deviation = (list(values) for values in (training.statistics() if given is None else given))
    if given is not None and (not len(mean) == len(deviation) == training.shape[0] or min(deviation) <= 0):
        raise ValueError(
            f"data.mean, data.std: expected {training.shape[0]} numbers each, one per channel, with std above 0; got "
            f"{mean} and {deviation}."
        )
    if max(deviation) == 0:
        raise ValueError("all training images are a single colour and cannot be normalised.")
    return {MODALITY: normalisation_entries(mean, deviation)}
