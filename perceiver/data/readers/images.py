"""Image files: finding them in a folder, and decoding them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
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

from perceiver.data.loading.images import Images, pixel_statistics
from perceiver.data.readers.folder_files import files_below, report_left_out
from perceiver.modalities.media.framing import Frame, deep_range_of, image_formats, is_deep, to_rgb, upright
from perceiver.runtime.progress import progress

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
"""Suffixes of image files, in any case. Files without a suffix are recognised by their content."""


Crop = Callable[[Image.Image], Image.Image]
"""A torchvision v2 transform or a similar callable: maps an RGB image of any size to the data module's size."""


# More images would not change means and deviations noticeably.
STATISTICS_IMAGES = 4096


class ImageFileError(ValueError):
    """A file is not an intact image.

    A DataLoader adds tracebacks to the messages of its workers' errors; this class keeps the original message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Images):
    """Image files with their classes, decoded on access.

    Args:
        folder: base of the paths; its name is the prefix of sample names.
        paths: (samples,), as bytes: loader processes share an array, but would each copy a list of strings.
        labels: (samples,), classes from 0.
        class_names: names of the classes.
        frame: brings images to a common size.
        crop: replaces `frame` in training; None: `frame`.
        deep_range: see `perceiver.modalities.media.framing.to_rgb`.
        prefix: prefix of sample names; None: the folder's name.
        labelled: whether the classes are known.
    """

    folder: Path
    paths: NDArray[Any]
    labels: Int[Tensor, "samples"]
    class_names: Sequence[str]
    frame: Frame
    crop: Crop | None = None
    value_range: Sequence[int] = (0, 255)
    deep_range: Sequence[float] | None = None
    prefix: str | None = None
    labelled: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (3, H, W) of an image."""
        return 3, self.frame.height, self.frame.width

    def take(self, index: Int[Tensor, "chosen"]) -> "ImageFiles":
        """Return the files at these positions."""
        return replace(self, paths=self.paths[index.numpy()], labels=self.labels[index])

    def joined(self, other: "ImageFiles") -> "ImageFiles":
        """Return the files of two folders with the same parent and the same classes."""
        parts = [np.char.add(os.fsencode(f"{one.folder.name}/"), one.paths) for one in (self, other)]
        labels = torch.cat([self.labels, other.labels])
        return replace(self, folder=self.folder.parent, paths=np.concatenate(parts), labels=labels, prefix="")

    def names(self, index: Int[Tensor, "chosen"]) -> list[str]:
        """Return the path of each file, prefixed with the folder's name: "train/cat/001.jpg"."""
        prefix = f"{self.folder.name}/" if self.prefix is None else self.prefix
        return [f"{prefix}{os.fsdecode(path)}" for path in self.paths[index.numpy()]]

    def read(self, index: Int[Tensor, "chosen"]) -> UInt8[Tensor, "chosen 3 height width"]:
        """Decode the files at these positions.

        Raises:
            ImageFileError: a file is not an intact image; the message names it.
            ValueError: `crop` returns another size.
        """
        return self._read(index, self.frame if self.crop is None else self.crop)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and deviation of each channel in [0, 1], from at most 4,096 evenly spaced, uncropped files."""
        count = len(self.labels)
        index = torch.linspace(0, count - 1, min(count, STATISTICS_IMAGES)).round().long()
        parts = progress(torch.split(index, 64), total=-(-len(index) // 64), title="statistics of the images (blocks of 64)")
        return pixel_statistics((self._read(part, self.frame) for part in parts), value_range=self.value_range)

    def learned_deep_range(self) -> list[int] | None:
        """See `deep_range_of_files`."""
        chosen = evenly(range(len(self.paths)), STATISTICS_IMAGES // 8)
        paths = [self.folder / os.fsdecode(self.paths[index]) for index in chosen]
        return deep_range_of_files(progress(paths, total=len(paths), title="bits per pixel of the images", unit="images"))

    def _read(self, index: Int[Tensor, "chosen"], crop: Crop) -> UInt8[Tensor, "chosen 3 height width"]:
        _, height, width = self.shape
        pixels = np.empty((len(index), height, width, 3), dtype=np.uint8)
        for row, path in enumerate(self.paths[index.numpy()]):
            image = crop(read_image(self.folder / os.fsdecode(path), deep_range=self.deep_range))
            if image.size != (width, height):
                raise ValueError(
                    f"data.train_crop: expected images of {height} x {width} pixels, as set by data.size, got "
                    f"{image.size[1]} x {image.size[0]} from {crop}."
                )
            pixels[row] = np.asarray(image)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def read_image(path: Path | BytesIO, *, deep_range: Sequence[float] | None = None) -> Image.Image:
    """Read a file or its content as an upright RGB image with 8 bits per channel. For `deep_range` see `to_rgb`.

    Raises:
        ImageFileError: the file is not an image, is damaged or too large to decode safely, or its pixel range is unknown.
        FileNotFoundError: the file does not exist.
    """
    try:
        with Image.open(path, formats=image_formats()) as image:
            check_animation(image)
            return to_rgb(upright(image), deep_range=deep_range)
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{path}: too large to decode safely: {error} Scale it down or remove it.") from error
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise ImageFileError(
            f"{path}: not a valid image ({type(error).__name__}: {error}). Replace the file or remove it."
        ) from error


def check_animation(image: Image.Image) -> None:
    """Raise DecompressionBombError for an animation with huge frames: 2 kB of WebP can hold frames of 148 million pixels.

    Frames may have a quarter of the pixels that Pillow allows for an image (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit // 4 and getattr(image, "is_animated", False):
        raise Image.DecompressionBombError(f"Frames of {pixels} pixels exceed the limit for animations, {limit // 4}.")


def deep_range_of_files(paths: Iterable[Path | BytesIO]) -> list[int] | None:
    """See `perceiver.modalities.media.framing.deep_range_of`; unreadable files are left to another reader to report."""

    def opened() -> Iterator[Image.Image]:
        for path in paths:
            with suppress(Exception), Image.open(path, formats=image_formats()) as image:
                if is_deep(image):
                    image.load()
                    yield image

    found = deep_range_of(opened())
    if found is not None:
        log.info("images with more than 8 bits per pixel: black is %d, white is %d; to change this, set deep_range.", *found)
    return found


def evenly(items: Sequence[Any], at_most: int) -> list[Any]:
    """Return at most `at_most` items, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), at_most)).round().astype(int))
    return [items[index] for index in chosen.tolist()]


def find_images(folder: Path, *, frame: Frame, class_names: Sequence[str] | None = None) -> ImageFiles:
    """Find the images below `folder/<class>/`, sorted by class and path.

    Args:
        folder: folder of a split.
        frame: see `ImageFiles`.
        class_names: allowed classes, some of which may lack images; None: the classes found, at least two.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are no class folders or no images; without `class_names`, a class has no images or is the only
            class; with `class_names`, there are other classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data.root: expected the folder {folder.resolve()} with one folder of images per class, but it does not "
            "exist. Set data.root or the environment variable PERCEIVER_DATA to the folder that holds train and "
            "test; with test=false no test images are needed."
        )
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: expected a folder of images per class, found none. Move the images of class X to X/.")
    if class_names is None:
        names: Sequence[str] = found
        if len(names) == 1:
            raise ValueError(f"{folder}: expected at least two classes, found only the folder {names[0]!r}.")
    else:
        names = class_names
        if unknown := [name for name in found if name not in set(names)]:
            raise ValueError(
                f"{folder}: has the classes {_quoted(unknown)}, which are not among the training classes "
                f"{_quoted(names)}. Remove these folders, or add training images of these classes."
            )
    return _files_of(folder, names=names, found=found, frame=frame, complete=class_names is None)


def _files_of(folder: Path, *, names: Sequence[str], found: Sequence[str], frame: Frame, complete: bool) -> ImageFiles:
    numbers = {name: number for number, name in enumerate(names)}
    paths: list[bytes] = []
    labels: list[int] = []
    left_out: list[str] = []
    for name in found:
        own: list[str] = []
        others: list[str] = []
        for path in files_below(folder / name):
            (own if is_image(folder / name, path) else others).append(f"{name}/{path}")
        if complete and not own:
            raise ValueError(
                f"{folder / name}: expected images of this class, found none, only {len(others)} files that end in none of "
                f"{', '.join(SUFFIXES)}. Add some, or remove the folder."
            )
        left_out += others
        paths.extend(os.fsencode(path) for path in sorted(own))
        labels.extend([numbers[name]] * len(own))
    report_left_out(left_out, folder=folder, kind="images")
    if not paths:
        raise ValueError(f"{folder}: expected images in its {len(found)} class folders, found none.")
    return ImageFiles(
        folder=folder, paths=np.array(paths), labels=torch.tensor(labels), class_names=tuple(names), frame=frame
    )


def images_below(folder: Path) -> list[str]:
    """Return the relative paths of all images below a folder, sorted; other files are left out and logged.

    Raises:
        ValueError: there are no images.
    """
    own: list[str] = []
    others: list[str] = []
    for path in files_below(folder):
        (own if is_image(folder, path) else others).append(path)
    report_left_out(others, folder=folder, kind="images")
    if not own:
        raise ValueError(f"{folder}: expected images, found none.")
    return sorted(own)


def is_image(folder: Path, path: str) -> bool:
    """Return whether a file is an image by its suffix, or by its content if it has no suffix."""
    if suffix := os.path.splitext(path)[1]:
        return suffix.lower() in SUFFIXES
    with suppress(Exception), Image.open(folder / path, formats=image_formats()):
        return True
    return False


def both_or_neither(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return mean and standard deviation if both are given, or None if neither is."""
    if (mean is None) != (std is None):
        raise ValueError(f"data.mean, data.std: expected both or neither, got {mean} and {std}.")
    return None if mean is None or std is None else (mean, std)


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
