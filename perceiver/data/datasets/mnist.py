"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels, from the original IDX files, and the reader of such files.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from perceiver.data.loading.image_module import ImageDataModule
from perceiver.data.loading.images import Augment, LabelledImages
from perceiver.data.loading.splits import stratified_split

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
HEIGHT, WIDTH, NUM_CLASSES = 28, 28, 10
UNSIGNED_BYTE = 0x08  # the type code in the third byte of an IDX file; the fourth is the number of dimensions


class MNIST(ImageDataModule):
    """MNIST with its official test split; validation images are split off the training images by class.

    Batches hold `inputs["image"]` `(B, 1, 28, 28)`.

    Args:
        root: the folder that holds `MNIST/raw/` with the four IDX files, as `torchvision.datasets.MNIST` lays
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
            class_names=[str(digit) for digit in range(NUM_CLASSES)],
            value_range=(0, 255),
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            balanced_sampling=balanced_sampling,
            num_labelled=num_labelled,
            split_seed=split_seed,
        )
        self.root = Path(root)
        self.files = IdxFiles(folder=self.root / "MNIST" / "raw", title="MNIST", ids="mnist")
        self.validation_size = validation_size
        self.download = download

    def prepare_data(self) -> None:
        """Downloads what is absent and checks all four files, those of the test too, before any time is spent."""
        fetch = (lambda: torchvision.datasets.MNIST(str(self.root), download=True)) if self.download else None
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


@dataclass(frozen=True, kw_only=True)
class IdxFiles:
    """Four IDX files: images of 28 x 28 pixels and labels 0 to 9, for training and test. MNIST and its successors.

    Args:
        folder: where the files are.
        title: the name of the data set in messages; the folder `root` holds `title`/raw.
        ids: the beginning of sample names: "mnist" gives "mnist/train/17".
    """

    folder: Path
    title: str
    ids: str

    def prepare(self, fetch: Callable[[], object] | None) -> None:
        """Has absent files fetched, and checks all.

        Args:
            fetch: downloads them; None: absent files are an error.

        Raises:
            FileNotFoundError: files are absent, and are not to be fetched or cannot be.
            ValueError: a file is truncated, corrupt, or of other data.
        """
        missing = [name for names in FILES.values() for name in names if not (self.folder / name).is_file()]
        if missing and fetch is None:
            raise FileNotFoundError(self._absent(missing, "they are absent and data.download is false"))
        if missing and fetch is not None:
            try:
                fetch()
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(self._absent(missing, f"downloading them failed: {error}")) from error
        for images, labels in FILES.values():
            num_images, height, width = read_shape(self.folder / images, dimensions=3)
            (num_labels,) = read_shape(self.folder / labels, dimensions=1)
            if (height, width) != (HEIGHT, WIDTH):
                raise ValueError(
                    f"{self.folder / images}: expected images of {HEIGHT} x {WIDTH} pixels, got {height} x {width}."
                )
            if num_images != num_labels:
                raise ValueError(
                    f"{self.folder / labels}: expected a label for each of the {num_images} images in {images}, "
                    f"got {num_labels} labels. Use the files of one data set."
                )
            self._labels(labels)

    def read(self, split: str) -> LabelledImages:
        """The images of "train" or "test"."""
        image_file, label_file = FILES[split]
        pixels: UInt8[Tensor, "samples height width"] = read_image_file(str(self.folder / image_file))
        return LabelledImages(
            pixels=pixels.unsqueeze(1),
            labels=self._labels(label_file),
            ids=f"{self.ids}/{split}",
            numbers=torch.arange(len(pixels)),
        )

    def _labels(self, name: str) -> Int[Tensor, "samples"]:
        labels: Int[Tensor, "samples"] = read_label_file(str(self.folder / name))
        wrong = (labels >= NUM_CLASSES).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(
                f"{self.folder / name}: expected labels 0 to {NUM_CLASSES - 1}, got {int(labels[first])} for image "
                f"{first} and {len(wrong)} such labels in all. Replace the file with the original."
            )
        return labels

    def _absent(self, missing: list[str], reason: str) -> str:
        return (
            f"data.root: expected {self.title}'s files in {self.folder.resolve()}, but of its four files "
            f"{', '.join(missing)} cannot be had: {reason}. Set data.root or the environment variable PERCEIVER_DATA to the "
            f"folder that holds {self.title}/raw, or run with data.download=true and a network connection and free disk "
            "space."
        )


def read_shape(path: Path, *, dimensions: int) -> tuple[int, ...]:
    """The shape that the header of an IDX file of unsigned bytes states, after comparing it with the file's size.

    Args:
        path: the file.
        dimensions: how many the file must have: 3 for images, 1 for labels.

    Raises:
        ValueError: not an IDX file of bytes with so many dimensions, empty, or of another size than stated.
    """
    size = path.stat().st_size
    header_size = 4 + 4 * dimensions
    with path.open("rb") as file:
        header = file.read(header_size)
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    remedy = "Delete it to have it downloaded again (data.download=true), or replace it with the original."
    if len(header) < header_size:
        raise ValueError(f"{path}: expected an IDX header of {header_size} bytes, got a file of {size}. {remedy}")
    if header[:4] != magic:
        raise ValueError(
            f"{path}: expected an uncompressed IDX file that starts with {magic.hex(' ')} ({dimensions} dimensions of "
            f"unsigned bytes), got {header[:4].hex(' ')}. {remedy}"
        )
    shape = tuple(int.from_bytes(header[start : start + 4], "big") for start in range(4, header_size, 4))
    expected = header_size + math.prod(shape)
    if expected == header_size:
        raise ValueError(f"{path}: holds nothing: its header says shape {shape}. {remedy}")
    if size != expected:
        state = "truncated" if size < expected else "corrupt"
        raise ValueError(
            f"{path}: is {state}: expected {expected} bytes for the shape {shape} in its header, got {size}. {remedy}"
        )
    return shape
