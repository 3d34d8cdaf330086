"""Image files in a folder per class: `root/{train,val,test}/<class>/*`, decoded per batch."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceiver.data.folders.bad_files import BadFiles
from perceiver.data.loading.folds import Fold
from perceiver.data.loading.groups import groups_of_paths, require_undivided, split_off
from perceiver.data.loading.images import Images, image_spec, image_statistics, of_any_size
from perceiver.data.loading.source import Source
from perceiver.data.readers.folder_files import is_flat, split_folder
from perceiver.data.readers.images import Crop, ImageFiles, both_or_neither, find_images, images_below
from perceiver.modalities.media.framing import Frame
from perceiver.runtime.regularising import regularising


@regularising(train_crop=None)
class ImageFolder(Source):
    """Images of any size and format, in a folder per class, scaled and cropped to a common size.

    Images are read from `root/train/<class>/*` and `root/test/<class>/*`, nested folders included. The class names are the
    sorted folder names in `train`. `root/val/<class>/*` is the validation split; without it, some of the training images
    are used. For prediction, `root` may also hold images without splits and classes, in any folders. Batches hold
    `inputs["image"]` `(B, 3, *size)`: RGB, upright according to EXIF, 16 bits scaled to 8, transparency dropped.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        size: (height, width) of the images in batches.
        deep_range: black and white of images with more than 8 bits per pixel, e.g. [0, 4095]. None: from 0 to the largest
            number of 8, 10, 12, 14 or 16 bits that covers the pixels of such images in `train`.
        crop_fraction: share of height and width that evaluation keeps around the centre: images are scaled until they cover
            size / crop_fraction, and cropped to `size`. 1 keeps as much as the aspect ratio allows.
        train_crop: crop of decoded training images, PIL to PIL, e.g. `torchvision.transforms.v2.RandomResizedCrop(size)`;
            None: as in evaluation.
        validation_fraction: share of the training images, per class, for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        folds: number of folds of a cross-validation of the images in `train` and `val`. None: no cross-validation.
        fold: number of the fold that is the test split, from 0; `test` is not used then, and validation images are split off
            the other folds.
        group: regular expression, searched in the path of an image below `root`; what its parentheses match names the
            group, such as a patient, that is in a single split. None: images are split one by one.
        mean: mean of each channel, for pixels in [0, 1]; None measures mean and `std` on at most 4,096 training images.
        std: standard deviation of each channel.
        on_bad_row: "error" stops at the first damaged image. "skip" decodes everything once before it is used, and leaves
            out and names damaged images.
        needs_test: whether `prepare` requires the test split.

    Raises:
        FileNotFoundError: a split is missing.
        ValueError: a split or a class of `train` has no images, `train` has a single class, `val` or `test` has a class that
            `train` lacks, or a file is not an intact image. The message names folder or file.
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
        folds: int | None = None,
        fold: int | None = None,
        group: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        on_bad_row: str = "error",
        needs_test: bool = True,
    ) -> None:
        super().__init__(
            specs=image_spec((3, *size), crop_fraction=crop_fraction),
            split_seed=split_seed,
            fold=Fold.chosen(folds=folds, fold=fold),
        )
        self.normalisation = both_or_neither(mean, std)
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        self.root = Path(root)
        self.frame = Frame(size=size, crop_fraction=crop_fraction)
        self.deep_range = deep_range
        self.train_crop = train_crop
        self.validation_fraction = validation_fraction
        self.group = group
        self.needs_test = needs_test
        self.bad_files = BadFiles(on_bad_row)
        self._found: ImageFiles | None = None

    @property
    def left_out(self) -> list[str]:
        """See `Source.left_out`."""
        return self.bad_files.reasons

    def prepare(self) -> None:
        """List the images of all splits without opening them."""
        if self.spec is not None and is_flat(self.root):
            self._unlabelled()
            return
        if not (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return  # testing a checkpoint needs no training images; without a checkpoint, setup raises
        self._training_files()
        if split_folder(self.root, "val").is_dir():
            self._evaluation_files("val")
        if self.needs_test and self.fold is None:
            self._evaluation_files("test")

    def known(self) -> dict[str, Any]:
        """Return range and classes, without the size: a model may be tested on images of another size."""
        return of_any_size(super().known())

    def statistics(self, training: Images) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the channels, as given or measured."""
        found = image_statistics(training, given=self.normalisation)
        if self.deep_range is not None:
            found["image"]["deep_range"] = list(self.deep_range)
        return found

    def read_class_names(self) -> list[str] | None:
        """Return the folder names of `train`; None without `train`, e.g. with only test images for a trained model."""
        return list(self._training_files().class_names) if (self.root / "train").is_dir() else None

    def read_training(self) -> tuple["ImageFiles", "ImageFiles"]:
        """Return `train`, and `val` or a part split off from `train`; with folds, the images outside the fold."""
        files = self._training_files() if self.fold is None else self._fold_split()[0]
        if self.fold is None and split_folder(self.root, "val").is_dir():
            validation = self._evaluation_files("val")
            self._require_undivided(train=files, val=validation)
            return self._usable_training(files), self._usable(validation)
        self._require_undivided(train=files)
        kept, taken = split_off(
            files.labels,
            size=max(1, round(self.validation_fraction * len(files.labels))),
            seed=self.split_seed,
            name="data.validation_fraction",
            groups=self._groups(files),
        )
        training = files.take(kept)
        left = torch.bincount(training.labels, minlength=len(files.class_names))
        if bool((left == 0).any()):
            name = files.class_names[int(left.argmin())]
            raise ValueError(
                f"{files.folder / name}: expected more images: all of them went to validation. Reduce "
                f"data.validation_fraction (now {self.validation_fraction}), or create {self.root / 'val'}."
            )
        return self._usable_training(training), self._usable(files.take(taken), part="validation")

    def read_test(self) -> "ImageFiles":
        """Return `test`, or the images of the fold."""
        if self.fold is None:
            return self._usable(self._evaluation_files("test"))
        return self._usable(self._fold_split()[1], part="test")

    def read_prediction(self) -> "ImageFiles | None":
        """Return all images of a folder without splits; None: the test split."""
        return self._usable(self._unlabelled()) if is_flat(self.root) else None

    def _fold_split(self) -> tuple["ImageFiles", "ImageFiles"]:
        """Return the images of `train` and `val` outside the fold, and those in it, damaged ones included."""
        assert self.fold is not None
        files = self._training_files()
        folder = split_folder(self.root, "val")
        if folder.is_dir():
            files = files.joined(self._evaluation_files("val"))
        kept, taken = self.fold.split(files.labels, seed=self.split_seed, name=self.root, groups=self._groups(files))
        return files.take(kept), files.take(taken)

    def _groups(self, files: "ImageFiles") -> list[str] | None:
        return None if self.group is None else groups_of_paths(files.names(torch.arange(len(files))), self.group)

    def _require_undivided(self, **splits: "ImageFiles") -> None:
        """Check that no group is in two folders of splits."""
        if self.group is None or self.fold is not None:
            return
        if split_folder(self.root, "test").is_dir():
            splits["test"] = self._evaluation_files("test")
        require_undivided({split: self._groups(files) or [] for split, files in splits.items()}, name=self.root)

    def _usable_training(self, files: "ImageFiles") -> "ImageFiles":
        usable = self._usable(files)
        counts = torch.bincount(usable.labels, minlength=len(usable.class_names))
        if bool((counts == 0).any()):
            raise ValueError(f"{files.folder / files.class_names[int(counts.argmin())]}: no valid images, all were skipped.")
        return replace(usable, crop=self.train_crop)

    def _usable(self, files: "ImageFiles", *, part: str = "") -> "ImageFiles":
        """Return the files that can be read; `part` names a split that shares the folder with the training split."""
        index = self.bad_files.usable(files, num_workers=self.num_workers, where=files.folder, part=part)
        return files.take(index) if len(index) < len(files) else files

    def _unlabelled(self) -> "ImageFiles":
        paths = images_below(self.root)
        return ImageFiles(
            folder=self.root,
            paths=np.array([os.fsencode(path) for path in paths]),
            labels=torch.zeros(len(paths), dtype=torch.int64),
            class_names=tuple(self.named_classes()),
            frame=self.frame,
            deep_range=self._deep_range(),
            prefix="",
            labelled=False,
        )

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
        """Return the range of the stored spec if it exists, else the configured or learned range."""
        return self.deep_range if self.spec is None else self.spec["modalities"]["image"].get("deep_range")
