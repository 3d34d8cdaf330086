"""What data modules of labelled images have in common: splits, spec, data loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perceiver.batch import Sample
from perceiver.data.loading.images import Augment, Images, ImageSource, collated
from perceiver.data.loading.labelled_subset import ImageSubset, labelled_subset
from perceiver.data.loading.loaders import (
    check_loading,
    check_stored,
    known_spec,
    loader,
    training_loader,
)
from perceiver.targets.classes import classes_target


class ImageDataModule(LightningDataModule, ABC):
    """Trains, validates and tests on labelled images. Subclasses read them, this class does the rest.

    Args:
        class_names: names of the classes 0, 1, …; None where the data says: the subclass has `read_class_names`.
        value_range: (smallest, largest) raw pixel value; black and white.
        batch_size: images per batch and process.
        num_workers: loader processes. With images in memory 0 is right unless `augment` is slow: a batch takes well
            under a millisecond.
        augment: transform of training images, float in [0, 1]; see `perceiver.data.loading.images.Images`. It draws
            from torch's global generator; each worker process has its own seed.
        balanced_sampling: draw training images with replacement, every class equally often on average; an epoch keeps
            its length. False: every image once.
        normalisation: (mean, standard deviation) of the channels, of pixels in [0, 1]; None measures them on the training
            split.
        num_labelled: how many of the training split's images to train on, each class in proportion; None: all. Mean and
            standard deviation are theirs. Validation and test stay as they are.
        split_seed: which of them; not the training seed.
        crop_fraction: how images of other sizes become images of this size, see `perceiver.modalities.framing.Frame`; in the
            spec, so that prediction does the same. None: all images have the size.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str] | None,
        value_range: Sequence[int],
        batch_size: int,
        num_workers: int,
        augment: Augment | None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        split_seed: int = 0,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
        crop_fraction: float | None = None,
    ) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        self.value_range = list(value_range)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.balanced_sampling = balanced_sampling
        self.num_labelled = num_labelled
        self.split_seed = split_seed
        self.normalisation = normalisation
        self.crop_fraction = crop_fraction
        self._class_names = None if class_names is None else list(class_names)
        self._spec: dict[str, Any] | None = None
        self._training: ImageSource | None = None
        self._validation: ImageSource | None = None
        self._test: ImageSource | None = None
        self._train_dataset: Images | None = None

    @abstractmethod
    def read_training(self) -> tuple[ImageSource, ImageSource]:
        """The training split and the validation split, which is taken out of it where the data has none."""

    @abstractmethod
    def read_test(self) -> ImageSource:
        """The test split."""

    def read_class_names(self) -> list[str] | None:
        """Names of the classes as the data says; None if it does not: a stored spec must."""
        return None

    def image_facts(self) -> dict[str, Any]:
        """What else the spec of the images holds, known after `read_training`."""
        return {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0, 1, …: given, of the stored spec, or read from the data.

        Raises:
            RuntimeError: nothing says so.
        """
        if self._class_names is None:
            self._class_names = self.read_class_names()
        if self._class_names is None:
            if self._spec is None:
                raise RuntimeError(f"{type(self).__name__}: neither the data nor a stored spec names the classes.")
            self._class_names = list(self._spec["target"]["names"])
        return self._class_names

    def setup(self, stage: str | None = None) -> None:
        """Reads what a stage ("fit", "validate", "test", "predict"; None for all) needs, once; makes the spec."""
        if self._spec is None or stage in ("fit", "validate", None):
            self._read_training()
        if stage in ("fit", None) and self._train_dataset is None:
            assert self._training is not None
            self._train_dataset = Images(
                images=self._training, modality=self.spec["modalities"]["image"], augment=self.augment
            )
        if stage in ("test", "predict", None) and self._test is None:
            self._test = self.read_test()

    def _read_training(self) -> None:
        if self._training is None:
            self._training, self._validation = self.read_training()
            if self.num_labelled is not None:
                chosen = labelled_subset(self._training.labels, size=self.num_labelled, seed=self.split_seed)
                self._training = ImageSubset(self._training, chosen)
        if self._spec is None:
            mean, deviation = self._normalisation(self._training)
            names = self.class_names
            self._spec = {
                "modalities": {
                    "image": {
                        "kind": "image",
                        "shape": list(self._training.shape),
                        "range": list(self.value_range),
                        "mean": mean,
                        "std": deviation,
                        **({} if self.crop_fraction is None else {"crop_fraction": self.crop_fraction}),
                        **self.image_facts(),
                    }
                },
                "target": classes_target(
                    names=names, counts=torch.bincount(self._training.labels, minlength=len(names)).tolist()
                ),
                "num_classes": len(names),
            }

    def _normalisation(self, training: ImageSource) -> tuple[list[float], list[float]]:
        if self.normalisation is not None:
            mean, deviation = (list(values) for values in self.normalisation)
            if not len(mean) == len(deviation) == training.shape[0] or min(deviation) <= 0:
                raise ValueError(
                    f"data.mean, data.std: expected {training.shape[0]} numbers each, one per channel, deviations above 0; "
                    f"got {mean} and {deviation}."
                )
            return mean, deviation
        mean, deviation = training.statistics(value_range=self.value_range)
        if max(deviation) == 0:
            raise ValueError("the training images are all of one colour: nothing to normalise or to learn from.")
        return mean, [value or 1.0 for value in deviation]  # a channel that never varies carries nothing

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: a plain dict; there after `prepare_data()` and `setup("fit")`.

        Set it, before the loaders are made, to what a run directory or checkpoint holds: validation, test,
        prediction and resumed training then normalise by the stored statistics.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data: another modality, image shape, pixel range or classes.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        modality = stored.get("modalities", {}).get("image", {})
        expected = {
            "modalities": (["image"], sorted(stored.get("modalities", {}))),
            "modalities.image.range": (self.value_range, list(modality.get("range", []))),
        }
        own_names = self.read_class_names() if self._class_names is None else self._class_names
        if own_names is not None:
            expected["target.names"] = (own_names, list(stored.get("target", {}).get("names", [])))
        if self._spec is not None:
            own_shape = self._spec["modalities"]["image"]["shape"]
            expected["modalities.image.shape"] = (own_shape, list(modality.get("shape", [])))
        check_stored(expected, module=self)
        self._spec = deepcopy(dict(stored))
        self._class_names = list(self._spec["target"]["names"])
        self._train_dataset = None

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split, augmented."""
        if self._train_dataset is None:
            self.setup("fit")
        assert self._train_dataset is not None
        return training_loader(self._train_dataset, collated, module=self, labels=self._train_dataset.images.labels)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split, in order."""
        if self._validation is None:
            self.setup("validate")
        return self._evaluation(self._validation)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        if self._test is None:
            self.setup("test")
        return self._evaluation(self._test)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        return self.test_dataloader()

    def _evaluation(self, images: ImageSource | None) -> DataLoader[Sample]:
        assert images is not None
        return loader(Images(images=images, modality=self.spec["modalities"]["image"]), collated, module=self)
