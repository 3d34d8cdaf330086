"""Fashion-MNIST: 60,000 + 10,000 photographs of clothes, 28 x 28 grey pixels, in MNIST's file format.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms"
(2017).
"""

import os
from pathlib import Path

import torchvision

from perceiver.data.datasets.mnist import IdxFiles
from perceiver.data.loading.image_module import ImageDataModule
from perceiver.data.loading.images import Augment, LabelledImages
from perceiver.data.loading.splits import stratified_split

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMNIST(ImageDataModule):
    """Fashion-MNIST with its official test split; validation images are split off the training images by class.

    Batches hold `inputs["image"]` `(B, 1, 28, 28)`.

    Args:
        root: the folder that holds `FashionMNIST/raw/` with the four IDX files, as `torchvision.datasets.FashionMNIST` lays
            it out.
        batch_size: images per batch and process.
        num_workers: loader processes.
        validation_size: how many of the 60,000 training images are for validation.
        split_seed: which of them; not the training seed.
        augment: transform of training images, float in [0, 1]; see `perceiver.data.loading.images.Images`.
        balanced_sampling, num_labelled: see `ImageDataModule`.
        download: download the files that are absent. False: absent files are an error.

    Raises:
        FileNotFoundError: files are absent and `download` is false or fails.
        ValueError: a file is truncated or corrupt, holds images of another size or labels out of range, or
            `validation_size` leaves nothing to train on.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        batch_size: int = 64,
        num_workers: int = 0,
        validation_size: int = 5000,
        split_seed: int = 0,
        augment: Augment | None = None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(
            class_names=CLASS_NAMES,
            value_range=(0, 255),
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            balanced_sampling=balanced_sampling,
            num_labelled=num_labelled,
            split_seed=split_seed,
        )
        self.root = Path(root)
        self.files = IdxFiles(folder=self.root / "FashionMNIST" / "raw", title="FashionMNIST", ids="fashion_mnist")
        self.validation_size = validation_size
        self.download = download

    def prepare_data(self) -> None:
        """Downloads what is absent and checks all four files, those of the test too, before any time is spent."""
        fetch = (lambda: torchvision.datasets.FashionMNIST(str(self.root), download=True)) if self.download else None
        self.files.prepare(fetch)

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """55,000 and 5,000 of the official training images by default."""
        images = self.files.read("train")
        kept, taken = stratified_split(
            images.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return images.take(kept), images.take(taken)

    def read_test(self) -> LabelledImages:
        """The 10,000 official test images."""
        return self.files.read("test")
