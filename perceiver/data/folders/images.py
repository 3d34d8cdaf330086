"""Image files in a folder per class: `root/{train,val,test}/<class>/*`, decoded when a batch needs them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from perceiver.data.loading.images import Images, image_facts, image_statistics, of_any_size
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split
from perceiver.data.readers.folder_files import split_folder
from perceiver.data.readers.images import Crop, ImageFiles, both_or_neither, find_images
from perceiver.modalities.framing import Frame


class ImageFolder(Source):
    """Images of any size and format, in a folder per class, scaled and cropped to one size.

    `root/train/<class>/*` and `root/test/<class>/*`, folders within a class folder included; the class names are the names
    of the folders in `train`, sorted. `root/val/<class>/*` is the validation split; without it, some of the training images
    are. Batches hold `inputs["image"]` `(B, 3, *size)`: RGB, upright as EXIF says, 16 bits scaled to 8, transparency
    dropped.

    Args:
        root: the folder that holds `train`, `test` and, maybe, `val`.
        size: (height, width) of the images in batches.
        deep_range: black and white of images with more than 8 bits per pixel, e.g. [0, 4095]. None: from 0 to the largest
            number of 8, 10, 12, 14 or 16 bits that covers the pixels of those in `train`.
        crop_fraction: share of height and width that evaluation keeps about the centre: images are scaled until they cover
            size / crop_fraction, and cut to `size`. 1 keeps as much as the aspect ratio lets.
        train_crop: makes training images of decoded ones, e.g. `torchvision.transforms.v2.RandomResizedCrop(size)`, PIL to
            PIL; None does as in evaluation.
        validation_fraction: share of the training images, class by class, for validation; counts only without `val`.
        split_seed: which of them; not the training seed.
        mean: of each channel, of pixels in [0, 1]; None measures it and `std` on the training images, at most 4,096 of them.
        std: standard deviation of each channel.
        needs_test: `prepare` demands the test split; False where it is not there and not asked for.

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
        deep_range: Sequence[float] | None = None,
        crop_fraction: float = 1.0,
        train_crop: Crop | None = None,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        needs_test: bool = True,
    ) -> None:
        super().__init__(facts=image_facts((3, *size), crop_fraction=crop_fraction), split_seed=split_seed)
        self.normalisation = both_or_neither(mean, std)
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        self.root = Path(root)
        self.frame = Frame(size=size, crop_fraction=crop_fraction)
        self.deep_range = deep_range
        self.train_crop = train_crop
        self.validation_fraction = validation_fraction
        self.needs_test = needs_test
        self._found: ImageFiles | None = None

    def prepare(self) -> None:
        """Looks through the folders of all splits; images are not opened yet."""
        if not (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return  # testing a checkpoint needs no training images; setup says so if there is none
        self._training_files()
        if split_folder(self.root, "val").is_dir():
            self._evaluation_files("val")
        if self.needs_test:
            self.read_test()

    def known(self) -> dict[str, Any]:
        """Range and classes; a model may be tested on images of another size."""
        return of_any_size(super().known())

    def statistics(self, training: Images) -> dict[str, dict[str, Any]]:
        """Mean and standard deviation of the channels, as given or measured."""
        found = image_statistics(training, given=self.normalisation)
        if self.deep_range is not None:
            found["image"]["deep_range"] = list(self.deep_range)
        return found

    def read_class_names(self) -> list[str] | None:
        """The folders of `train`; None where there is no `train`, as beside the test images of a trained model."""
        return list(self._training_files().class_names) if (self.root / "train").is_dir() else None

    def read_training(self) -> tuple["ImageFiles", "ImageFiles"]:
        """`train`, and `val` or what is split off for it."""
        files = self._training_files()
        if split_folder(self.root, "val").is_dir():
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
            found = find_images(self.root / "train", frame=self.frame)
            if self.spec is None and self.deep_range is None:
                self.deep_range = found.learned_deep_range()
            self._found = replace(found, deep_range=self._deep_range())
        return self._found

    def _evaluation_files(self, split: str) -> "ImageFiles":
        found = find_images(split_folder(self.root, split), frame=self.frame, class_names=self.named_classes())
        return replace(found, deep_range=self._deep_range())

    def _deep_range(self) -> Sequence[float] | None:
        """That of the stored spec, where there is one."""
        return self.deep_range if self.spec is None else self.spec["modalities"]["image"].get("deep_range")
