"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour photographs of 32 x 32 pixels, from the original Python batches.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

import codecs
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from perceiver.data.loading.image_module import ImageDataModule
from perceiver.data.loading.images import Augment, LabelledImages
from perceiver.data.loading.splits import stratified_split

CHANNELS, HEIGHT, WIDTH = 3, 32, 32


class CIFAR10(ImageDataModule):
    """CIFAR-10 with its official test split; validation images are split off the training images by class.

    Batches hold `inputs["image"]` `(B, 3, 32, 32)`.

    Args:
        root: the folder that holds `cifar-10-batches-py/`, the unpacked "python version", as torchvision lays it out.
        batch_size: images per batch and process.
        num_workers: loader processes.
        validation_size: how many of the 50,000 training images are for validation.
        split_seed: which of them; not the training seed.
        augment: transform of training images, float in [0, 1]; see `perceiver.data.loading.images.Images`.
        balanced_sampling, num_labelled: see `ImageDataModule`.
        download: download the files that are absent, with their checksums verified. False: absent files are an error.

    Raises:
        FileNotFoundError: files are absent and `download` is false or fails.
        ValueError: a file is truncated, corrupt or of other data, or `validation_size` leaves nothing to train on.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        batch_size: int = 128,
        num_workers: int = 0,
        validation_size: int = 5000,
        split_seed: int = 0,
        augment: Augment | None = None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(
            class_names=None,
            value_range=(0, 255),
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            balanced_sampling=balanced_sampling,
            num_labelled=num_labelled,
            split_seed=split_seed,
        )
        self.root = Path(root)
        self.files = CifarFiles(
            folder=self.root / "cifar-10-batches-py",
            training=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test="test_batch",
            meta="batches.meta",
            labels="labels",
            names="label_names",
            num_classes=10,
            ids="cifar10",
        )
        self.validation_size = validation_size
        self.download = download

    def prepare_data(self) -> None:
        """Downloads what is absent and checks all files, that of the test too, before any time is spent."""
        self.files.prepare((lambda: torchvision.datasets.CIFAR10(str(self.root), download=True)) if self.download else None)

    def read_class_names(self) -> list[str] | None:
        """The ten names, from the original's own list."""
        return self.files.class_names()

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """45,000 and 5,000 of the official training images by default."""
        images = self.files.read_training()
        kept, taken = stratified_split(
            images.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return images.take(kept), images.take(taken)

    def read_test(self) -> LabelledImages:
        """The 10,000 official test images."""
        return self.files.read_test()


class CIFAR100(ImageDataModule):
    """CIFAR-100 (its 100 fine classes) with its official test split; validation images are split off by class.

    Batches hold `inputs["image"]` `(B, 3, 32, 32)`.

    Args:
        root: the folder that holds `cifar-100-python/`, the unpacked "python version", as torchvision lays it out.
        batch_size: images per batch and process.
        num_workers: loader processes.
        validation_size: how many of the 50,000 training images are for validation.
        split_seed: which of them; not the training seed.
        augment: transform of training images, float in [0, 1]; see `perceiver.data.loading.images.Images`.
        balanced_sampling, num_labelled: see `ImageDataModule`.
        download: download the files that are absent, with their checksums verified. False: absent files are an error.

    Raises:
        FileNotFoundError: files are absent and `download` is false or fails.
        ValueError: a file is truncated, corrupt or of other data, or `validation_size` leaves nothing to train on.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        batch_size: int = 128,
        num_workers: int = 0,
        validation_size: int = 5000,
        split_seed: int = 0,
        augment: Augment | None = None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(
            class_names=None,
            value_range=(0, 255),
            batch_size=batch_size,
            num_workers=num_workers,
            augment=augment,
            balanced_sampling=balanced_sampling,
            num_labelled=num_labelled,
            split_seed=split_seed,
        )
        self.root = Path(root)
        self.files = CifarFiles(
            folder=self.root / "cifar-100-python",
            training=("train",),
            test="test",
            meta="meta",
            labels="fine_labels",
            names="fine_label_names",
            num_classes=100,
            ids="cifar100",
        )
        self.validation_size = validation_size
        self.download = download

    def prepare_data(self) -> None:
        """Downloads what is absent and checks all files, that of the test too, before any time is spent."""
        self.files.prepare((lambda: torchvision.datasets.CIFAR100(str(self.root), download=True)) if self.download else None)

    def read_class_names(self) -> list[str] | None:
        """The hundred names, from the original's own list."""
        return self.files.class_names()

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """45,000 and 5,000 of the official training images by default."""
        images = self.files.read_training()
        kept, taken = stratified_split(
            images.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return images.take(kept), images.take(taken)

    def read_test(self) -> LabelledImages:
        """The 10,000 official test images."""
        return self.files.read_test()


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """The pickled batches of one of the two sets, read without running anything that a file might name.

    torchvision's own classes would unpickle whatever lies there once its checksum is right, and refuse everything else, a
    subset for tests included.

    Args:
        folder: where the files are.
        training: names of the training batches, in order.
        test: name of the test batch.
        meta: name of the file with the class names.
        labels: key of the labels in a batch.
        names: key of the class names in `meta`.
        num_classes: how many there must be.
        ids: the beginning of sample names: "cifar10" gives "cifar10/train/17".
    """

    folder: Path
    training: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_classes: int
    ids: str

    def prepare(self, fetch: Callable[[], object] | None) -> None:
        """Has absent files fetched, and checks all.

        Args:
            fetch: downloads them; None: absent files are an error.

        Raises:
            FileNotFoundError: files are absent, and are not to be fetched or cannot be.
            ValueError: a file is truncated, corrupt, or of other data.
        """
        missing = [name for name in (*self.training, self.test, self.meta) if not (self.folder / name).is_file()]
        if missing and fetch is None:
            raise FileNotFoundError(self._absent(missing, "they are absent and data.download is false"))
        if missing and fetch is not None:
            try:
                fetch()
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(self._absent(missing, f"downloading them failed: {error}")) from error
        self.class_names()
        self.read_training()
        self.read_test()

    def class_names(self) -> list[str]:
        """The names of the classes."""
        path = self.folder / self.meta
        names = read_batch(path).get(self.names)
        if not isinstance(names, list) or len(names) != self.num_classes or not all(isinstance(n, str) for n in names):
            raise ValueError(f"{path}: expected a list of {self.num_classes} names under {self.names!r}. {_REMEDY}")
        return list(names)

    def read_training(self) -> LabelledImages:
        """All training batches, one after the other."""
        return self._read(self.training, split="train")

    def read_test(self) -> LabelledImages:
        """The test batch."""
        return self._read((self.test,), split="test")

    def _read(self, names: tuple[str, ...], *, split: str) -> LabelledImages:
        batches = [self._check(self.folder / name) for name in names]
        pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in batches]))
        labels = torch.from_numpy(np.concatenate([labels for _, labels in batches]))
        return LabelledImages(
            pixels=pixels.view(-1, CHANNELS, HEIGHT, WIDTH),
            labels=labels,
            ids=f"{self.ids}/{split}",
            numbers=torch.arange(len(labels)),
        )

    def _check(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        batch = read_batch(path)
        pixels: Any = batch.get("data")
        labels: Any = batch.get(self.labels)
        width = CHANNELS * HEIGHT * WIDTH
        is_array = isinstance(pixels, np.ndarray)
        if not is_array or pixels.dtype != np.uint8 or pixels.shape != (len(pixels), width) or len(pixels) == 0:
            found = f"{pixels.dtype} of shape {pixels.shape}" if is_array else type(pixels).__name__
            raise ValueError(f"{path}: expected bytes of shape (images, {width}) under 'data', got {found}. {_REMEDY}")
        if not isinstance(labels, list) or len(labels) != len(pixels):
            count = f"{len(labels)} of them" if isinstance(labels, list) else type(labels).__name__
            raise ValueError(
                f"{path}: expected a list of {len(pixels)} labels, one per image, under {self.labels!r}, got {count}. "
                f"{_REMEDY}"
            )
        for index, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < self.num_classes:
                raise ValueError(
                    f"{path}: expected labels 0 to {self.num_classes - 1}, got {label!r} for image {index}. {_REMEDY}"
                )
        return pixels, np.array(labels, dtype=np.int64)

    def _absent(self, missing: list[str], reason: str) -> str:
        return (
            f"data.root: expected the files of {self.ids} in {self.folder.resolve()}, but {', '.join(missing)} cannot be "
            f"had: {reason}. Set data.root or the environment variable PERCEIVER_DATA to the folder that holds "
            f"{self.folder.name}, or run with data.download=true and a network connection and free disk space."
        )


_REMEDY = "Replace the folder with the original's python version."

# What the original batches, written by Python 2, and the same written by current Python and NumPy are made of.
_reconstruct, _frombuffer = np.zeros(1).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): codecs.encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Builds plain values and NumPy arrays; any other name in the file is an error, before anything of it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of such files")
        return _ALLOWED[module, name]


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary that a pickled file of CIFAR's holds: plain values and NumPy arrays.

    Raises:
        ValueError: the file is damaged, holds something else, or asks for anything but that.
    """
    try:
        with path.open("rb") as file:
            # Python 2's strings: those of arrays are bytes, which Latin-1 maps one to one.
            batch = _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: no intact CIFAR file ({type(error).__name__}: {error}). {_REMEDY}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(batch).__name__}. {_REMEDY}")
    return batch
