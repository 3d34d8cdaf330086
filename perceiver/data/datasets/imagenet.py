"""ImageNet (ILSVRC2012): 1,281,167 + 50,000 photographs of 1,000 classes, in the layout of its archives.

Source: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge" (2015).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceiver.data.loading.images import Images, image_spec, image_statistics, of_any_size
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split
from perceiver.data.readers.images import Crop, ImageFiles, both_or_neither, find_images
from perceiver.modalities.media.framing import Frame
from perceiver.runtime.regularising import regularising

DEVKIT = Path("ILSVRC2012_devkit_t12", "data")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt")


@regularising(train_crop=None)
class ImageNet(Source):
    """ImageNet for classification, from local files only: its terms require agreement, so nothing is downloaded.

    - `root/train/<wnid>/*.JPEG`: training images, of which some are split off by class for validation.
    - `root/val/<wnid>/*.JPEG`, or `root/val/*.JPEG` with the devkit `root/ILSVRC2012_devkit_t12`: the official validation
      images. They are the test split here, as in the published results, because the test labels were never released.

    Classes are the folders of `train`, sorted, so subsets of ImageNet work too. Their names come from the devkit, or from
    `LOC_synset_mapping.txt` or `synset_words.txt` in `root` (lines "n01440764 tench, Tinca tinca"), or are the WordNet
    numbers, which are also appended to names that two classes share. Batches hold `inputs["image"]` `(B, 3, *size)`.

    Args:
        root: folder with `train` and `val`.
        size: (height, width) of the images in batches.
        crop_fraction: see `ImageFolder`.
        train_crop: see `ImageFolder`.
        validation_size: number of training images used for validation.
        split_seed: seed of this split; not the training seed.
        mean: mean per channel of pixels in [0, 1]; None: measure mean and `std` on at most 4,096 training images.
        std: standard deviation per channel.
        needs_test: `prepare` requires `val`; False if it is absent and not needed.

    Raises:
        FileNotFoundError: if a folder or the ground truth is absent.
        ValueError: as `ImageFolder`, or if the ground truth does not fit the images.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        size: Sequence[int] = (224, 224),
        crop_fraction: float = 0.875,
        train_crop: Crop | None = None,
        validation_size: int = 10000,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        needs_test: bool = True,
    ) -> None:
        super().__init__(specs=image_spec((3, *size), crop_fraction=crop_fraction), split_seed=split_seed)
        self.normalisation = both_or_neither(mean, std)
        self.root = Path(root)
        self.frame = Frame(size=size, crop_fraction=crop_fraction)
        self.train_crop = train_crop
        self.validation_size = validation_size
        self.needs_test = needs_test
        self._found: ImageFiles | None = None

    def prepare(self) -> None:
        """List the folders of both splits, without opening images."""
        self._training_files()
        if self.needs_test:
            self.read_test()

    def known(self) -> dict[str, Any]:
        """Return range and classes; a model may be tested on images of another size."""
        return of_any_size(super().known())

    def statistics(self, training: Images) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the channels, as given or measured."""
        return image_statistics(training, given=self.normalisation)

    def read_class_names(self) -> list[str] | None:
        """Return unique class names in words, in the order of the WordNet numbers."""
        wnids = self._training_files().class_names
        words = read_words(self.root)
        names = [words.get(wnid, wnid) for wnid in wnids]
        return [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]

    def read_training(self) -> tuple[ImageFiles, ImageFiles]:
        """Return 1,271,167 and 10,000 of the training images by default."""
        files = self._training_files()
        kept, taken = stratified_split(
            files.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return replace(files.take(kept), crop=self.train_crop), files.take(taken)

    def read_test(self) -> ImageFiles:
        """Return the 50,000 official validation images."""
        folder = self.root / "val"
        wnids = self._training_files().class_names
        if not folder.is_dir():
            raise FileNotFoundError(self._absent(folder))
        if any(path.is_dir() for path in folder.iterdir()):
            return find_images(folder, frame=self.frame, class_names=wnids)
        names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(".jpeg"))
        truth = read_ground_truth(self.root)
        if len(truth) != len(names):
            raise ValueError(
                f"{folder}: expected {len(truth)} images, *.JPEG, one per line of "
                f"{self.root / DEVKIT / GROUND_TRUTH}, got {len(names)}."
            )
        numbers = {wnid: number for number, wnid in enumerate(wnids)}
        chosen = [position for position, wnid in enumerate(truth) if wnid in numbers]  # possibly a subset of the classes
        if not chosen:
            raise ValueError(f"{folder}: expected images of the classes in {self.root / 'train'}, {wnids[0]} and so on.")
        return ImageFiles(
            folder=folder,
            paths=np.array([os.fsencode(names[position]) for position in chosen]),
            labels=torch.tensor([numbers[truth[position]] for position in chosen]),
            class_names=wnids,
            frame=self.frame,
        )

    def _training_files(self) -> ImageFiles:
        if self._found is None:
            folder = self.root / "train"
            if not folder.is_dir():
                raise FileNotFoundError(self._absent(folder))
            self._found = find_images(folder, frame=self.frame)
        return self._found

    def _absent(self, folder: Path) -> str:
        return (
            f"data.root: expected ImageNet's images in {folder.resolve()}, but the folder does not exist. They cannot "
            "be downloaded automatically: register at image-net.org, unpack ILSVRC2012_img_train.tar to "
            "train/<wnid>/ and ILSVRC2012_img_val.tar to val/, with ILSVRC2012_devkit_t12.tar.gz beside them, and "
            "set data.root or the environment variable PERCEIVER_DATA to the folder that holds them."
        )


def read_words(root: Path) -> dict[str, str]:
    """Return class names by WordNet number, from the devkit or a list in `root`; empty without either."""
    if (root / DEVKIT / "meta.mat").is_file():
        return dict(_synsets(root).values())
    for name in NAME_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8").splitlines()
            pairs = (line.strip().split(maxsplit=1) for line in lines if line.strip())
            return {pair[0]: pair[-1] for pair in pairs}
    return {}


def read_ground_truth(root: Path) -> list[str]:
    """Return the WordNet number of each official validation image, in the order of their names.

    Raises:
        FileNotFoundError: if the devkit is absent.
        ValueError: if its files are inconsistent.
    """
    path = root / DEVKIT / GROUND_TRUTH
    for needed in (path, root / DEVKIT / "meta.mat"):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed}: not found, but required because {root / 'val'} has no folder per class. Unpack "
                f"ILSVRC2012_devkit_t12.tar.gz in {root}, or sort the images into val/<wnid>/."
            )
    synsets = _synsets(root)
    truth: list[str] = []
    for number, line in enumerate(path.read_text().split(), start=1):
        if not line.isdecimal() or int(line) not in synsets:
            raise ValueError(f"{path}: expected the number of a class in meta.mat on line {number}, got {line!r}.")
        truth.append(synsets[int(line)][0])
    return truth


def _synsets(root: Path) -> Mapping[int, tuple[str, str]]:
    """Return (WordNet number, words) by the devkit's class number, 1 to 1000."""
    from scipy.io import loadmat  # type: ignore[import-untyped]  # slow to import, rarely needed

    path = root / DEVKIT / "meta.mat"
    try:
        rows = loadmat(str(path), squeeze_me=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        return {int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"])) for row in leaves}
    except Exception as error:  # a damaged file can raise almost any exception
        raise ValueError(
            f"{path}: expected a list of classes, but the file is damaged ({type(error).__name__}: {error}). Unpack it "
            "again."
        ) from error
