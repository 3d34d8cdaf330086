"""Images and masks in folders: `root/{train,val,test}/images/*` and `root/{train,val,test}/masks/*.png`, paired by name."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from perceiver.data.folders.bad_files import BadFiles
from perceiver.data.loading.images import measured_normalisation
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import random_split
from perceiver.data.readers.folder_files import is_flat, split_folder
from perceiver.data.readers.images import (
    SUFFIXES,
    ImageFileError,
    deep_range_of_files,
    evenly,
    images_below,
    read_image,
)
from perceiver.data.readers.masks import Color, parse_color, parse_colors, read_classes, read_color_mask, read_mask
from perceiver.data.readers.named_files import matching_files
from perceiver.modalities.media.framing import Frame
from perceiver.runtime.progress import progress
from perceiver.samples.batch import Sample
from perceiver.targets.pixels import segmentation_target

CLASSES_FILE = "classes.txt"
WHITE = 255

log = logging.getLogger(__name__)

PairAugment = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[Tensor, Tensor]]
"""A torchvision v2 transform, applied jointly to image and mask."""

# More images would not change means, deviations and class shares noticeably.
_DESCRIBED = 512


class SegmentationFolder(Source):
    """Your own images with a class for each pixel.

    An image `images/a/b.jpg` has the mask `masks/a/b.png`, of the same size, whose pixels are class numbers: grey with 8 or
    16 bits, or with a palette; or colours, with `mask_colors`. For prediction, `root` may also hold images without masks, in
    `root/images` or directly. Without `root/val`, some of the training images are used for validation. Batches hold
    `inputs["image"]` `(B, 3, H, W)`, RGB, upright according to EXIF, and class numbers `(B, H, W)`.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        class_names: names of the classes 0, 1, …; None: the lines of `root/classes.txt`, or the names in a stored spec. A
            line may also hold the colour of the class: `road 128 64 128`.
        size: (height, width) of the images in batches: images are scaled until they cover it, and cropped; so are masks,
            without mixing classes. None: images keep their sizes and batches are padded; the model must then make a token
            of each pixel.
        crop_fraction: share of height and width kept around the centre, see `perceiver.modalities.media.framing.Frame`.
        ignored: numbers in masks that mark ignored pixels; with `mask_colors`, colours.
        mask_colors: colours of the classes in masks, in class order or by class name, each as [red, green, blue] or
            "#rrggbb". None: those of `root/classes.txt`; without such colours, masks hold numbers.
        mask_values: numbers of the classes in masks, in class order. None: 0, 1, …; or 0 and 255 if there are two classes
            and the training masks hold no other number.
        deep_range: see `perceiver.data.folders.images.ImageFolder`.
        validation_fraction: share of the training images for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        augment: any transform of `torchvision.transforms.v2`, applied jointly to training images, float `(3, H, W)` in
            [0, 1], and their masks. Pixels that it fills in are ignored. None: no augmentation.
        on_bad_row: "error" stops at the first damaged image or mask. "skip" reads everything once before it is used, and
            leaves out and names damaged files.
        needs_test: whether `prepare` requires the test split.

    Raises:
        FileNotFoundError: a split is missing, an image has no mask, or class names are not available.
        ValueError: a split has no images, a mask has no image, or settings are invalid.
        ImageFileError: on reading: a file is damaged, or a mask has another size or unexpected numbers.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        class_names: Sequence[str] | None = None,
        size: Sequence[int] | None = (64, 64),
        crop_fraction: float = 1.0,
        ignored: Sequence[Any] = (255,),
        mask_colors: Sequence[Any] | Mapping[str, Any] | None = None,
        mask_values: Sequence[int] | None = None,
        deep_range: Sequence[float] | None = None,
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        augment: PairAugment | None = None,
        on_bad_row: str = "error",
        needs_test: bool = True,
    ) -> None:
        shape = [3, None, None] if size is None else [3, *(int(length) for length in size)]
        spec: dict[str, Any] = {"kind": "image", "shape": shape, "range": [0, 255]}
        if size is not None:
            spec["crop_fraction"] = crop_fraction
        names = None if class_names is None else [str(name) for name in class_names]
        super().__init__(specs={"image": spec}, class_names=names, split_seed=split_seed)
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        if augment is not None and not callable(augment):
            raise TypeError(f"data.augment: expected a callable transform or null, got {type(augment).__name__}.")
        if class_names is not None and (len(class_names) < 2 or len(set(class_names)) < len(class_names)):
            raise ValueError(f"data.class_names: expected two or more distinct names, got {list(class_names)}.")
        self.root = Path(root)
        self.frame = None if size is None else Frame(size=size, crop_fraction=crop_fraction)
        if mask_colors is not None and mask_values is not None:
            raise ValueError("data.mask_colors, data.mask_values: expected one of them, got both.")
        colors = [one for one in ignored if isinstance(one, Sequence)]
        self.ignored = tuple(int(one) for one in ignored if one not in colors)
        self.ignored_colors = tuple(parse_color(color, setting="data.ignored") for color in colors)
        self._given_colors = mask_colors
        self.bad_files = BadFiles(on_bad_row)
        self.mask_values = None if mask_values is None else [int(number) for number in mask_values]
        self.deep_range = deep_range
        self.validation_fraction = validation_fraction
        self.augment = augment
        self.needs_test = needs_test

    def read_class_names(self) -> list[str] | None:
        """Return the lines of `classes.txt`, if it exists."""
        path = self.root / CLASSES_FILE
        return read_classes(path)[0] if path.is_file() else None

    def mask_colors(self) -> list[Color] | None:
        """Return the colours of the classes in masks, from the stored spec, the argument or `classes.txt`; None: numbers."""
        if self.spec is not None:
            stored = self.spec["target"].get("mask_colors")
            return None if stored is None else parse_colors(stored, names=self.named_classes())
        if self._given_colors is not None:
            return parse_colors(self._given_colors, names=self.named_classes())
        path = self.root / CLASSES_FILE
        if self.mask_values is None and path.is_file():
            names, colors = read_classes(path)
            return None if colors is None or names != self.named_classes() else colors
        return None

    def named_classes(self) -> list[str]:
        """Return the class names from the argument, the stored spec or `classes.txt`."""
        if self.class_names is None:
            raise FileNotFoundError(
                f"{self.root / CLASSES_FILE}: expected the names of the classes, one per line in the order of their "
                "numbers, but the file does not exist. Create it, or set data.class_names."
            )
        return self.class_names

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
        validation = ["val"] if split_folder(self.root, "val").is_dir() else []
        for split in ["train", *validation, *(["test"] if self.needs_test else [])]:
            find_pairs(split_folder(self.root, split))

    def read_training(self) -> tuple["ImagePairs", "ImagePairs"]:
        """Return `train`, and `val` or a part split off from `train`."""
        training = self._split("train")
        if self.spec is None:
            training = self._learned(training)
        if split_folder(self.root, "val").is_dir():
            return replace(self._usable(training), augment=self.augment), self._usable(self._split("val"))
        stay, taken = random_split(
            len(training), fraction=self.validation_fraction, seed=self.split_seed, where=training.folder
        )
        kept, left = (replace(training, names=tuple(training.names[n] for n in part)) for part in (stay, taken))
        return replace(self._usable(kept), augment=self.augment), self._usable(left, part="validation")

    def read_test(self) -> "ImagePairs":
        """Return `test`."""
        return self._usable(self._split("test"))

    def read_prediction(self) -> "ImagePairs | None":
        """Return the images without masks of a folder without splits; None: the test split."""
        return self._usable(self._unlabelled()) if is_flat(self.root) else None

    def unaltered(self, training: "ImagePairs") -> "ImagePairs":
        """Return the split without augmentation."""
        return replace(training, augment=None)

    def learn(self, training: "ImagePairs") -> dict[str, Any]:
        """Return the spec, with statistics of at most 512 evenly spaced training images."""
        plain, names = self.unaltered(training), self.named_classes()
        places = evenly(range(len(plain)), _DESCRIBED)
        chosen = [
            plain[index] for index in progress(places, total=len(places), title="statistics of the masks", unit="pairs")
        ]
        counts = torch.zeros(len(names), dtype=torch.int64)
        images = []
        for sample in chosen:
            assert isinstance(sample.target, Tensor)
            assert isinstance(sample.target_mask, Tensor)
            counts += sample.target[sample.target_mask].bincount(minlength=len(names))
            image = sample.inputs["image"]
            assert isinstance(image, Tensor)
            images.append(image[None])
        absent = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]
        if len(names) - len(absent) < 2:
            raise ValueError(
                f"{plain.folder}: expected pixels of two or more classes in the masks, found none of "
                f"{', '.join(absent)}. Numbers in data.ignored={list(self.ignored)} are ignored. If masks have other "
                f"numbers than 0 to {len(names) - 1}, list the numbers of the classes in data.mask_values."
            )
        if absent:
            log.warning(
                "%s: none of the %d masks has pixels of the classes %s.", plain.folder, len(chosen), ", ".join(absent)
            )
        measured = measured_normalisation(images, value_range=(0.0, 1.0))
        spec = {**self.specs["image"], **measured}
        if self.deep_range is not None:
            spec["deep_range"] = list(self.deep_range)
        target = segmentation_target(names=names, counts=counts.tolist(), modality="image")
        if self.mask_values is not None:
            target["mask_values"] = self.mask_values
        if (colors := self.mask_colors()) is not None:
            target["mask_colors"] = [list(color) for color in colors]
        return {"modalities": {"image": spec}, "target": target, "num_classes": len(names)}

    def known(self) -> dict[str, Any]:
        """Return the spec of the images, the kind of target, and the classes if they are given."""
        target: dict[str, Any] = {"kind": "segmentation", "modality": "image"}
        given = {} if self._class_names is None else {"names": self._class_names}
        return {"modalities": self.specs, "target": {**target, **given}}

    def _learned(self, training: "ImagePairs") -> "ImagePairs":
        """Return the split with missing settings filled in from the training split."""
        numbered = self.mask_values is None and self.mask_colors() is None
        if numbered and len(self.named_classes()) == 2 and WHITE in self.ignored:
            found: set[int] = set()
            for name, _ in evenly(training.names, _DESCRIBED):
                try:
                    mask = read_mask(training.folder / "masks" / f"{name}.png")
                except ImageFileError:
                    if not self.bad_files.skip:
                        raise
                    continue
                found.update(np.unique(np.asarray(mask)).tolist())
                if not found <= {0, WHITE}:
                    break
            if found == {0, WHITE}:
                self.mask_values = [0, WHITE]
                names = self.named_classes()
                log.info("%s: masks have the values 0 and %d, used as the classes %s and %s.", self.root, WHITE, *names)
        if self.deep_range is None:
            self.deep_range = deep_range_of_files(
                [training.folder / "images" / file for _, file in evenly(training.names, _DESCRIBED)]
            )
        return self._split("train")

    def _usable(self, pairs: "ImagePairs", *, part: str = "") -> "ImagePairs":
        """Return the pairs that can be read; `part` names a split that shares the folder with the training split."""
        index = self.bad_files.usable(pairs, num_workers=self.num_workers, where=pairs.folder, part=part)
        return replace(pairs, names=tuple(pairs.names[number] for number in index.tolist()))

    def _unlabelled(self) -> "ImagePairs":
        images = "images" if (self.root / "images").is_dir() else ""
        names = tuple((os.path.splitext(file)[0], file) for file in images_below(self.root / images))
        return self._pairs(self.root, names=names, images=images, labelled=False)

    def _split(self, name: str) -> "ImagePairs":
        folder = split_folder(self.root, name)
        return self._pairs(folder, names=find_pairs(folder))

    def _pairs(self, folder: Path, *, names: tuple[tuple[str, str], ...], **more: Any) -> "ImagePairs":
        values, deep_range = self.mask_values, self.deep_range
        if self.spec is not None:
            values = self.spec["target"].get("mask_values")
            deep_range = self.spec["modalities"]["image"].get("deep_range")
        if values is not None and len(set(values)) != len(self.named_classes()):
            raise ValueError(f"data.mask_values: expected {len(self.named_classes())} numbers, one per class, got {values}.")
        colors, num_classes = self.mask_colors(), len(self.named_classes())
        return ImagePairs(
            values=None if values is None else tuple(values),
            colors=None if colors is None else tuple(colors),
            ignored_colors=self.ignored_colors,
            deep_range=deep_range,
            folder=folder,
            names=names,
            num_classes=num_classes,
            ignored=self.ignored if colors is None else (num_classes,),
            frame=self.frame,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class ImagePairs:
    """Images and masks of a split.

    Args:
        folder: folder of the split.
        names: for each sample, the path without suffix and the path of its image, below `images`.
        num_classes: number of classes; numbers in masks are below it unless ignored.
        ignored: numbers in masks that mark ignored pixels.
        values: numbers of the classes in masks, if they are not 0, 1, …
        colors: colours of the classes in masks, if masks hold no numbers.
        ignored_colors: colours in masks that mark ignored pixels.
        images: folder of the images, below `folder`.
        labelled: whether there are masks.
        deep_range: see `perceiver.modalities.media.framing.to_rgb`.
        frame: scales and crops images and masks.
        augment: joint transform of images and masks.
    """

    folder: Path
    names: tuple[tuple[str, str], ...]
    num_classes: int
    ignored: tuple[int, ...]
    frame: Frame | None
    values: tuple[int, ...] | None = None
    colors: tuple[Color, ...] | None = None
    ignored_colors: tuple[Color, ...] = ()
    images: str = "images"
    labelled: bool = True
    deep_range: Sequence[float] | None = None
    augment: PairAugment | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name, file = self.names[index]
        image = read_image(self.folder / self.images / file, deep_range=self.deep_range)
        if not self.labelled:
            return Sample(inputs={"image": self._pixels(image if self.frame is None else self.frame(image))}, id=file)
        path = self.folder / "masks" / f"{name}.png"
        if self.colors is None:
            mask = read_mask(path)
        else:
            mask = read_color_mask(path, colors=self.colors, ignored=self.ignored_colors)
        if image.size != mask.size:
            raise ImageFileError(
                f"{path}: expected {image.height} x {image.width} pixels, the upright size of its image, got "
                f"{mask.height} x {mask.width}."
            )
        if self.frame is not None:
            image, mask = self.frame(image), self.frame(mask, resample=Image.Resampling.NEAREST)
        pixels = self._pixels(image)
        classes = self._classes(np.asarray(mask), path)
        if self.augment is not None:
            pixels, classes = self._augmented(pixels, classes)
        return Sample(
            inputs={"image": pixels.contiguous()},
            target=(classes - 1).clamp(min=0),
            target_mask=classes > 0,
            id=f"{self.folder.name}/{name}",
        )

    @staticmethod
    def _pixels(image: Image.Image) -> Tensor:
        return (torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 255).contiguous()

    def _classes(self, numbers: NDArray[Any], path: Path) -> Tensor:
        """Return class numbers plus one, so that the fill value 0 of transforms is not a class; `(H, W)` int64."""
        classes = torch.from_numpy(numbers.astype(np.int64))
        known = range(self.num_classes) if self.values is None else self.values
        others = [one for one in self.ignored if one not in (self.values or ())]
        ignored = torch.isin(classes, torch.tensor(others, dtype=torch.int64))
        numbered = torch.zeros_like(classes)
        for number, value in enumerate(known, start=1):
            numbered[classes == value] = number
        wrong = (numbered == 0) & ~ignored
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            expected = f"from 0 to {self.num_classes - 1}" if self.values is None else f"{list(self.values)}"
            raise ImageFileError(
                f"{path}: expected class numbers {expected}, or data.ignored={list(self.ignored)}, got "
                f"{int(classes[row, column])}. Correct it, the names of the classes, data.ignored or data.mask_values."
            )
        return torch.where(ignored, 0, numbered)

    def _augmented(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        assert self.augment is not None
        image, mask = self.augment(tv_tensors.Image(pixels), tv_tensors.Mask(classes))
        fits = image.ndim == 3 and image.shape[0] == 3 and image.shape[1:] == mask.shape and image.is_floating_point()
        if not fits or (self.frame is not None and image.shape != pixels.shape):
            raise ValueError(
                f"data.augment: expected an image (3, H, W), floating point, and its mask (H, W)"
                f"{'' if self.frame is None else f' of the same size {tuple(pixels.shape[1:])}'}, got {image.dtype} "
                f"{tuple(image.shape)} and {tuple(mask.shape)} from {self.augment}."
            )
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def find_pairs(folder: Path) -> tuple[tuple[str, str], ...]:
    """Find the images below `folder/images` with masks below `folder/masks`: sorted (path without suffix, path).

    Errors as `matching_files`.
    """
    files = matching_files(folder, {"images": SUFFIXES, "masks": (".png",)})
    return tuple((name, parts["images"]) for name, parts in files.items())
