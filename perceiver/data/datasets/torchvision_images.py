"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: small labelled images, in the file formats of torchvision.

Sources: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; H. Xiao, K. Rasul, R. Vollgraf,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (2017); A. Krizhevsky, "Learning Multiple
Layers of Features from Tiny Images" (2009).
"""

import math
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from jaxtyping import Int
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from perceiver.data.loading.folds import Fold
from perceiver.data.loading.images import Images, LabelledImages, image_spec, image_statistics
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 0x08  # type code, the third byte of an IDX file; the fourth byte is the number of dimensions


class TorchvisionImages(Source):
    """A published data set with its official test split; validation images are split off the training images by class.

    Batches hold `inputs["image"]` `(B, C, H, W)`.

    Args:
        root: folder with the folder of the data set, in the layout of torchvision.
        validation_size: number of training images used for validation.
        split_seed: seed of this split; not the training seed.
        download: download absent files and verify their checksums. False: absent files are an error.
        folds: number of folds of a cross-validation of the official training images. None: no cross-validation.
        fold: number of the fold that is the test split, from 0; the official test split is not used then.

    Raises:
        FileNotFoundError: if files are absent and `download` is false or fails.
        ValueError: for a damaged file or other data, or a `validation_size` that leaves no training images.
    """

    reader: ClassVar[Any]
    """The data set in torchvision."""
    ids: ClassVar[str]
    """Prefix of sample names: "mnist" gives "mnist/train/17"."""
    image_shape: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        validation_size: int = 5000,
        split_seed: int = 0,
        download: bool = True,
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        chosen = Fold.chosen(folds=folds, fold=fold)
        super().__init__(specs=image_spec(self.image_shape), split_seed=split_seed, fold=chosen)
        self.root = Path(root)
        self.validation_size = validation_size
        self.download = download

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Return the folder of the files."""

    @abstractmethod
    def files(self) -> list[str]:
        """Return the names of all files."""

    @abstractmethod
    def read(self, split: str) -> LabelledImages:
        """Return the checked images of "train" or "test"."""

    def prepare(self) -> None:
        """Download absent files, and check all files early, including the test split."""
        missing = [name for name in self.files() if not (self.folder / name).is_file()]
        if missing and not self.download:
            raise FileNotFoundError(self._absent(missing, "they are missing and data.download is false"))
        if missing:
            try:
                self.reader(str(self.root), download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(self._absent(missing, f"downloading them failed: {error}")) from error
        for split in ("train", "test"):
            self.read(split)

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """Split the official training images into training and validation images, by default 5,000."""
        images = self._outside_fold()[0]
        kept, taken = stratified_split(
            images.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return images.take(kept), images.take(taken)

    def read_test(self) -> LabelledImages:
        """Return the 10,000 official test images, or the images of the fold."""
        return self.read("test") if self.fold is None else self._outside_fold()[1]

    def statistics(self, training: Images) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the channels."""
        return image_statistics(training)

    def _outside_fold(self) -> tuple[LabelledImages, LabelledImages]:
        """Return the official training images outside the fold and in it; without a fold, all and none."""
        images = self.read("train")
        if self.fold is None:
            return images, images.take(torch.arange(0))
        kept, taken = self.fold.split(images.labels, seed=self.split_seed, name=self.folder)
        return images.take(kept), images.take(taken)

    def _images(self, pixels: Tensor, labels: Tensor, split: str) -> LabelledImages:
        ids = f"{self.ids}/{split}"
        return LabelledImages(pixels=pixels, labels=labels, ids=ids, numbers=torch.arange(len(labels)))

    def _absent(self, missing: list[str], reason: str) -> str:
        return (
            f"data.root: expected {type(self).__name__}'s files in {self.folder.resolve()}, but {', '.join(missing)} "
            f"are not available: {reason}. Set data.root or the environment variable PERCEIVER_DATA to the folder "
            f"that holds {self.folder.relative_to(self.root)}, or run with data.download=true and a network "
            "connection and free disk space."
        )


class MNIST(TorchvisionImages):
    """MNIST: 60,000 + 10,000 handwritten digits `(1, 28, 28)` in `root/MNIST/raw`; see `TorchvisionImages`."""

    reader = torchvision.datasets.MNIST
    ids = "mnist"
    image_shape = (1, 28, 28)

    @property
    def folder(self) -> Path:
        """Return the folder of the four IDX files."""
        return self.root / str(self.reader.__name__) / "raw"

    def files(self) -> list[str]:
        """Return the names of the four IDX files."""
        return [name for names in IDX_FILES.values() for name in names]

    def read_class_names(self) -> list[str]:
        """Return the ten digits."""
        return [str(digit) for digit in range(10)]

    def read(self, split: str) -> LabelledImages:
        """Read a split from its two files, which have no checksums."""
        image_path, label_path = (self.folder / name for name in IDX_FILES[split])
        num_images, *size = read_idx_shape(image_path, dimensions=3)
        (num_labels,) = read_idx_shape(label_path, dimensions=1)
        _, height, width = self.image_shape
        if size != [height, width]:
            raise ValueError(f"{image_path}: expected images of {height} x {width} pixels, got {size[0]} x {size[1]}.")
        if num_images != num_labels:
            raise ValueError(
                f"{label_path}: expected a label for each of the {num_images} images in {image_path.name}, got "
                f"{num_labels} labels. Use files of the same data set."
            )
        labels: Int[Tensor, "samples"] = read_label_file(str(label_path))
        count = len(self.named_classes())
        wrong = (labels >= count).nonzero()
        if len(wrong):
            raise ValueError(
                f"{label_path}: expected labels 0 to {count - 1}, got {int(labels[wrong[0, 0]])} for image "
                f"{int(wrong[0, 0])} and {len(wrong)} invalid labels in total. Replace the file with the original."
            )
        return self._images(read_image_file(str(image_path)).unsqueeze(1), labels, split)


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 + 10,000 photographs of clothes `(1, 28, 28)` in `root/FashionMNIST/raw`, as `MNIST`."""

    reader = torchvision.datasets.FashionMNIST
    ids = "fashion_mnist"

    def read_class_names(self) -> list[str]:
        """Return the ten kinds of clothes."""
        return list(self.reader.classes)


class CIFAR10(TorchvisionImages):
    """CIFAR-10: 50,000 + 10,000 photographs `(3, 32, 32)` in `root/cifar-10-batches-py`; see `TorchvisionImages`.

    The files are pickles, so they are read only if their checksums match the originals.
    """

    reader = torchvision.datasets.CIFAR10
    ids = "cifar10"
    image_shape = (3, 32, 32)

    @property
    def folder(self) -> Path:
        """Return the folder of the unpacked "python version"."""
        return self.root / str(self.reader.base_folder)

    def files(self) -> list[str]:
        """Return the names of the batches and of the class list."""
        return list(self._checksums())

    def read_class_names(self) -> list[str]:
        """Return the names in the original class list."""
        return list(self._checked("test").classes)

    def read(self, split: str) -> LabelledImages:
        """Read a split."""
        read = self._checked(split)
        pixels = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        return self._images(pixels, torch.tensor(read.targets), split)

    def _checked(self, split: str) -> Any:
        """Return torchvision's data set, after comparing its files with the originals."""
        for name, checksum in self._checksums().items():
            path = self.folder / name
            if path.is_file() and not check_integrity(str(path), checksum):
                raise ValueError(
                    f"{path}: expected the original file, with the MD5 checksum {checksum}, got another. Replace the "
                    "folder with the original's python version, or delete it to download it again "
                    "(data.download=true)."
                )
        missing = [name for name in self.files() if not (self.folder / name).is_file()]
        if missing:
            raise FileNotFoundError(self._absent(missing, "they are missing"))
        return self.reader(str(self.root), train=split == "train")

    def _checksums(self) -> dict[str, str]:
        reader = self.reader
        return {**dict([*reader.train_list, *reader.test_list]), reader.meta["filename"]: reader.meta["md5"]}


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 + 10,000 photographs of 100 classes `(3, 32, 32)` in `root/cifar-100-python`, as `CIFAR10`."""

    reader = torchvision.datasets.CIFAR100
    ids = "cifar100"


def read_idx_shape(path: Path, *, dimensions: int) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file of unsigned bytes, after checking it against the file size.

    Args:
        path: IDX file.
        dimensions: required number of dimensions: 3 for images, 1 for labels.

    Raises:
        ValueError: unless it is a nonempty IDX file of bytes with this number of dimensions and the stated size.
    """
    size = path.stat().st_size
    header_size = 4 + 4 * dimensions
    with path.open("rb") as file:
        header = file.read(header_size)
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    remedy = "Delete it to download it again (data.download=true), or replace it with the original."
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
        raise ValueError(f"{path}: is empty: its header declares the shape {shape}. {remedy}")
    if size != expected:
        state = "truncated" if size < expected else "corrupt"
        raise ValueError(
            f"{path}: is {state}: expected {expected} bytes for the shape {shape} in its header, got {size}. {remedy}"
        )
    return shape
