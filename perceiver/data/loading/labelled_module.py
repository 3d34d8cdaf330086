"""What data modules of labelled samples of one modality, sound or points, have in common: stages, spec, data loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perceiver.batch import Sample
from perceiver.data.loading.collation import Augment, AugmentedCollate
from perceiver.data.loading.labelled_subset import SampleSubset, labelled_subset
from perceiver.data.loading.loaders import (
    check_loading,
    check_stored,
    known_spec,
    loader,
    stored_facts,
    training_loader,
)
from perceiver.data.loading.samples import Samples
from perceiver.targets.classes import classes_target


class LabelledDataModule(LightningDataModule, ABC):
    """Trains, validates and tests on samples of one modality. Subclasses read them, this class does the rest.

    Args:
        modality: its name, the key in `Batch.inputs`.
        facts: what is known of it before the data was seen: `kind`, `shape` and the like. Part of the spec.
        class_names: names of the classes 0, 1, …; None if `read_training` finds them, in `self.class_names`.
        batch_size: samples per batch and process.
        num_workers: loader processes.
        augment: transforms of training batches, by name, in this order; see `perceiver.data.loading.collation.Augment`.
        balanced_sampling: draw training samples with replacement, every class equally often on average; an epoch keeps its
            length. False: every sample once.
        num_labelled: how many of the training split's samples to train on, each class in proportion; None: all. What the
            spec says of the data is theirs. Validation and test stay as they are.
        split_seed: which of them; not the training seed.
    """

    def __init__(
        self,
        *,
        modality: str,
        facts: Mapping[str, Any],
        class_names: Sequence[str] | None,
        batch_size: int,
        num_workers: int,
        augment: Mapping[str, Augment | None] | None,
        balanced_sampling: bool = False,
        num_labelled: int | None = None,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        self.modality = modality
        self.facts = dict(facts)
        self.class_names = None if class_names is None else list(class_names)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = augment
        self.balanced_sampling = balanced_sampling
        self.num_labelled = num_labelled
        self.split_seed = split_seed
        self._spec: dict[str, Any] | None = None
        self._training: Samples | None = None
        self._validation: Samples | None = None
        self._test: Samples | None = None

    @abstractmethod
    def read_training(self) -> tuple[Samples, Samples]:
        """The training and the validation split; `self.class_names` is set when it returns."""

    @abstractmethod
    def read_test(self) -> Samples:
        """The test split, labelled by `self.class_names`."""

    @abstractmethod
    def statistics(self, training: Samples) -> dict[str, Any]:
        """What the spec of the modality holds besides `facts`: `mean` and `std`, or nothing."""

    def setup(self, stage: str | None = None) -> None:
        """Reads what a stage ("fit", "validate", "test", "predict"; None for all) needs, once; makes the spec."""
        if self._spec is None or stage in ("fit", "validate", None):
            self._read_training()
        if stage in ("test", "predict", None) and self._test is None:
            self._test = self.read_test()

    def _read_training(self) -> None:
        if self._training is None:
            self._training, self._validation = self.read_training()
            if self.num_labelled is not None:
                chosen = labelled_subset(self._training.labels, size=self.num_labelled, seed=self.split_seed)
                self._training = SampleSubset(self._training, chosen)
        assert self.class_names is not None
        if len(self.class_names) < 2:
            raise ValueError(f"{type(self).__name__}: expected two classes or more to tell apart, got {self.class_names}.")
        if self._spec is None:
            self._spec = {
                "modalities": {self.modality: {**self.facts, **self.statistics(self._training)}},
                "target": classes_target(
                    names=self.class_names,
                    counts=torch.tensor(self._training.labels).bincount(minlength=len(self.class_names)).tolist(),
                ),
                "num_classes": len(self.class_names),
            }

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: a plain dict; there after `prepare_data()` and `setup("fit")`.

        Set it, before the loaders are made, to what a run directory or checkpoint holds: validation, test,
        prediction and resumed training then normalise by the stored statistics and number classes in the stored order.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data: another modality, other facts or other classes.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        names = [str(name) for name in stored.get("target", {}).get("names", [])]
        expected = stored_facts({self.modality: self.facts}, stored)
        if self.class_names is not None:
            expected["target.names"] = (self.class_names, names)
        check_stored(expected, module=self)
        self.class_names = names
        self._spec = deepcopy(dict(stored))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split, augmented."""
        if self._training is None:
            self.setup("fit")
        assert self._training is not None
        collate = AugmentedCollate(modality=self.modality, spec=self.spec, augment=self.augment)
        collate.check(self._training[0])
        return training_loader(self._training, collate, module=self, labels=self._training.labels)

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

    def _evaluation(self, samples: Samples | None) -> DataLoader[Sample]:
        assert samples is not None
        return loader(samples, AugmentedCollate(modality=self.modality, spec=self.spec, augment=None), module=self)
