"""Some of a training split's samples only, class by class: what is learned from few labels."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data.loading.images import ImageSource, channel_statistics
from perceiver.data.loading.samples import Samples
from perceiver.data.loading.splits import stratified_split


def labelled_subset(labels: Sequence[int] | Tensor, *, size: int, seed: int) -> Int[Tensor, "size"]:
    """Which samples to train on: `size` of them, each class in proportion to its frequency, ascending.

    Args:
        labels: the class of each sample of the training split.
        size: how many; as many as there are takes all.
        seed: which of the possible choices; not the training seed.

    Raises:
        ValueError: `size` is below 1 or above the number of samples.
    """
    if size == len(labels):
        return torch.arange(size)
    if not 1 <= size < len(labels):
        raise ValueError(
            f"data.num_labelled: expected 1 to {len(labels)}, as many as the training split has, or null; got {size}."
        )
    return stratified_split(torch.as_tensor(labels), size=size, seed=seed, name="data.num_labelled")[1]


class ImageSubset:
    """Some images of a source, as a source.

    Args:
        images: all of them.
        index: positions of those that there are.
    """

    def __init__(self, images: ImageSource, index: Int[Tensor, "chosen"]) -> None:
        self.images = images
        self.index = index

    @property
    def labels(self) -> Int[Tensor, "samples"]:
        """The class of every image, from 0."""
        return self.images.labels[self.index]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.images.shape

    def read(self, index: Int[Tensor, "chosen"]) -> Shaped[Tensor, "chosen channels height width"]:
        """The raw pixels of some images, by position."""
        return self.images.read(self.index[index])

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """What identifies these images, in messages and tables."""
        return self.images.names(self.index[index])

    def statistics(self, *, value_range: Sequence[float]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, of these images only."""
        chunks: Iterator[Tensor] = (self.images.read(part) for part in torch.split(self.index, 1024))
        return channel_statistics(chunks, value_range=value_range)


class SampleSubset:
    """Some samples of a split, as a split.

    Args:
        samples: all of them.
        index: positions of those that there are.
    """

    def __init__(self, samples: Samples, index: Int[Tensor, "chosen"]) -> None:
        self.samples = samples
        self.index: list[int] = index.tolist()

    @property
    def labels(self) -> list[int]:
        """The class of each sample, from 0."""
        labels = self.samples.labels
        return [int(labels[number]) for number in self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.index[index]]
