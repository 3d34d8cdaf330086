"""Image files in a folder per class: `root/{train,val,test}/<class>/*`, decoded when a batch needs them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from perceiver.data.image_module import ImageDataModule
from perceiver.data.images import Augment, channel_statistics
from perceiver.data.splits import stratified_split
from perceiver.framing import Frame, to_rgb, upright

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files that end otherwise are not taken for images; upper and lower case are one."""

Crop = Callable[[Image.Image], Image.Image]
"""A torchvision v2 transform, or anything alike: an RGB image of any size to one of the data module's size."""

# Means and deviations of more images than these would not differ in a way that matters.
_STATISTICS_IMAGES = 4096


class ImageFolder(ImageDataModule):
    """Images of any size and format, in a folder per class, scaled and cropped to one size.

    `root/train/<class>/*` and `root/test/<class>/*`, folders within a class folder included; the class names are the names
    of the folders in `train`, sorted. `root/val/<class>/*` is the validation split; without it, some of the training images
    are. Batches hold `inputs["image"]` `(B, 3, *size)`: RGB, upright as EXIF says, 16 bits scaled to 8, transparency
    dropped.

    Args:
        root: the folder that holds `train`, `test` and, maybe, `val`.
        size: (height, width) of the images in batches.
        crop_fraction: share of height and width that evaluation keeps about the centre: images are scaled until they cover
            size / crop_fraction, and cut to `size`. 1 keeps as much as the aspect ratio lets.
        train_crop: makes training images of decoded ones, e.g. `torchvision.transforms.v2.RandomResizedCrop(size)`, PIL to
            PIL; None does as in evaluation.
        batch_size: images per batch and process.
        num_workers: loader processes, which decode.
        validation_fraction: share of the training images, class by class, for validation; counts only without `val`.
        split_seed: which of them; not the training seed.
        augment: transform of training images of size `size`, float in [0, 1]; see `perceiver.data.images.Images`.
        balanced_sampling, num_labelled: see `ImageDataModule`.
        mean: of each channel, of pixels in [0, 1]; None measures it and `std` on the training images, at most 4,096 of them.
        std: standard deviation of each channel.
        needs_test: `prepare_data` demands the test split; False where it is not there and not asked for.

    Raises:
        FileNotFoundError: a split is absent.
        ValueError: a split holds no images, a class of `train` none, or `train` a single class; `val` or `test` a class that
            `train` lacks; or a file that is read is no intact image. Names folder or file.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        size: Sequence[int],
        crop_fraction: float = 1.0,
        train_crop: Crop | None = None,
        batch_size: int = 64,
        num_workers: int = 2,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        augment: Augment | None = None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        needs_test: bool = True,
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
            normalisation=both_or_neither(mean, std),
            crop_fraction=crop_fraction,
        )
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        self.root = Path(root)
        self.frame = Frame(size=size, crop_fraction=crop_fraction)
        self.train_crop = train_crop
        self.validation_fraction = validation_fraction
        self.needs_test = needs_test
        self._found: ImageFiles | None = None

    def prepare_data(self) -> None:
        """Looks through the folders of all splits; images are not opened yet."""
        if not (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return  # testing a checkpoint needs no training images; setup says so if there is none
        self._training_files()
        if (self.root / "val").is_dir():
            self._evaluation_files("val")
        if self.needs_test:
            self.read_test()

    def read_class_names(self) -> list[str] | None:
        """The folders of `train`; None where there is no `train`, as beside the test images of a trained model."""
        return list(self._training_files().class_names) if (self.root / "train").is_dir() else None

    def read_training(self) -> tuple["ImageFiles", "ImageFiles"]:
        """`train`, and `val` or what is split off for it."""
        files = self._training_files()
        if (self.root / "val").is_dir():
            return replace(files, crop=self.train_crop), self._evaluation_files("val")
        size = max(1, round(self.validation_fraction * len(files.labels)))
        kept, taken = stratified_split(files.labels, size=size, seed=self.split_seed, name="data.validation_fraction")
        training = files.take(kept)
        left = torch.bincount(training.labels, minlength=len(files.class_names))
        if bool((left == 0).any()):
            name = files.class_names[int(left.argmin())]
            raise ValueError(
                f"{files.folder / name}: expected more images: validation took all that there are. Lower "
                f"data.validation_fraction (now {self.validation_fraction}), or make {self.root / 'val'} yourself."
            )
        return replace(training, crop=self.train_crop), files.take(taken)

    def read_test(self) -> "ImageFiles":
        """`test`."""
        return self._evaluation_files("test")

    def _training_files(self) -> "ImageFiles":
        if self._found is None:
            self._found = find_images(self.root / "train", frame=self.frame)
        return self._found

    def _evaluation_files(self, split: str) -> "ImageFiles":
        return find_images(self.root / split, frame=self.frame, class_names=self.class_names)


class ImageFileError(ValueError):
    """A file is no intact image.

    A DataLoader reports its workers' errors with their tracebacks in the message; here the message stays what it was.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Image files with their classes: an `ImageSource` that decodes what it is asked for.

    Args:
        folder: what the paths are relative to; its name begins the names of samples.
        paths: (samples,), as bytes: an array is shared with loader processes, a list of strings would be copied to each.
        labels: (samples,), classes from 0.
        class_names: what they stand for.
        frame: brings images to one size.
        crop: does so instead, in training; None: `frame`.
    """

    folder: Path
    paths: NDArray[Any]
    labels: Int[Tensor, "samples"]
    class_names: Sequence[str]
    frame: Frame
    crop: Crop | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return 3, self.frame.height, self.frame.width

    def take(self, index: Int[Tensor, "chosen"]) -> "ImageFiles":
        """Some of the files, by position."""
        return replace(self, paths=self.paths[index.numpy()], labels=self.labels[index])

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """Path of each, with the folder's own name in front: "train/cat/001.jpg"."""
        return [f"{self.folder.name}/{os.fsdecode(path)}" for path in self.paths[index.numpy()]]

    def read(self, index: Int[Tensor, "chosen"]) -> UInt8[Tensor, "chosen 3 height width"]:
        """Decodes some of the files.

        Raises:
            ImageFileError: a file is no intact image; names it.
            ValueError: `crop` gives another size.
        """
        return self._read(index, self.frame if self.crop is None else self.crop)

    def statistics(self, *, value_range: Sequence[float]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], of at most 4,096 images, evenly spread, uncropped."""
        count = len(self.labels)
        index = torch.linspace(0, count - 1, min(count, _STATISTICS_IMAGES)).round().long()
        return channel_statistics((self._read(part, self.frame) for part in torch.split(index, 64)), value_range=value_range)

    def _read(self, index: Int[Tensor, "chosen"], crop: Crop) -> UInt8[Tensor, "chosen 3 height width"]:
        _, height, width = self.shape
        pixels = np.empty((len(index), height, width, 3), dtype=np.uint8)
        for row, path in enumerate(self.paths[index.numpy()]):
            image = crop(read_image(self.folder / os.fsdecode(path)))
            if image.size != (width, height):
                raise ValueError(
                    f"data.train_crop: expected images of {height} x {width} pixels, as data.size says, got "
                    f"{image.size[1]} x {image.size[0]} from {crop}."
                )
            pixels[row] = np.asarray(image)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def read_image(path: Path | BytesIO) -> Image.Image:
    """One file, or its content, as an RGB image with 8 bits per channel, upright.

    Raises:
        ImageFileError: it is no image, damaged, too large to be decoded safely, or has pixels without a known range.
        FileNotFoundError: it is gone.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(upright(image))
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{path}: is too large to be decoded safely: {error} Scale it down or remove it.") from error
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise ImageFileError(
            f"{path}: no intact image ({type(error).__name__}: {error}). Replace the file or remove it."
        ) from error


def find_images(folder: Path, *, frame: Frame, class_names: Sequence[str] | None = None) -> ImageFiles:
    """The images below `folder/<class>/`, sorted by class and path.

    Args:
        folder: a split.
        frame: see `ImageFiles`.
        class_names: the classes that there may be, some of which may lack images; None: those that there are, at least two.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no class folders or no images; without `class_names`, a class has none or is the only one;
            with `class_names`, there are other classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data.root: expected the folder {folder.resolve()} with a folder of images per class, but there is none. Set "
            "data.root or the environment variable PERCEIVER_DATA to the folder that holds train and test; with test=false "
            "no test images are needed."
        )
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: expected a folder of images per class, found none. Move the images of class X to X/.")
    if class_names is None:
        names: Sequence[str] = found
        if len(names) == 1:
            raise ValueError(f"{folder}: expected at least two classes to tell apart, found only the folder {names[0]!r}.")
    else:
        names = class_names
        if unknown := [name for name in found if name not in set(names)]:
            raise ValueError(
                f"{folder}: has {_some(unknown)}, of which the training images know nothing; they have {_some(names)}. "
                "Remove these folders, or add training images of theirs."
            )
    return _files_of(folder, names=names, found=found, frame=frame, complete=class_names is None)


def _files_of(folder: Path, *, names: Sequence[str], found: Sequence[str], frame: Frame, complete: bool) -> ImageFiles:
    numbers = {name: number for number, name in enumerate(names)}
    paths: list[bytes] = []
    labels: list[int] = []
    for name in found:
        own = sorted(_images_below(folder / name, prefix=name))
        if complete and not own:
            others = sum(len(files) for _, _, files in os.walk(folder / name, followlinks=True))
            raise ValueError(
                f"{folder / name}: expected images of this class, found none, only {others} files that end in none of "
                f"{', '.join(SUFFIXES)}. Add some, or remove the folder."
            )
        paths.extend(os.fsencode(path) for path in own)
        labels.extend([numbers[name]] * len(own))
    if not paths:
        raise ValueError(f"{folder}: expected images in its {len(found)} class folders, found none.")
    return ImageFiles(
        folder=folder, paths=np.array(paths), labels=torch.tensor(labels), class_names=tuple(names), frame=frame
    )


def _images_below(folder: Path, *, prefix: str) -> Iterator[str]:
    """Paths of the images in a folder and the folders in it, with `prefix` for the folder; hidden ones are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from _images_below(folder / entry.name, prefix=path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield path


def both_or_neither(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation as given together, or None."""
    if (mean is None) != (std is None):
        raise ValueError(f"data.mean, data.std: expected both or neither, got {mean} and {std}.")
    return None if mean is None or std is None else (mean, std)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"the classes {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
