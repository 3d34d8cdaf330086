"""What data modules of samples with a target on their grid have in common: stages, spec, data loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perceiver.batch import Sample
from perceiver.data.loading.collation import AugmentedCollate
from perceiver.data.loading.loaders import (
    check_loading,
    check_stored,
    known_spec,
    loader,
    overfits,
    shuffled_loader,
    stored_facts,
)


@runtime_checkable
class DenseSamples(Protocol):
    """A split: its inputs are not normalised; targets are `(*grid)` class numbers or `(E, *grid)` values."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """One of them; a training split draws from the global generators, others have the same content every time."""
        ...


class DenseDataModule(LightningDataModule, ABC):
    """Trains, validates and tests on samples of one modality with a target on its grid. Subclasses read or draw them.

    Args:
        modality: its name, the key in `Batch.inputs`.
        facts: what is known of it before the data was seen: `kind`, `shape` and the like. Part of the spec.
        batch_size: samples per batch and process.
        num_workers: loader processes.
    """

    def __init__(self, *, modality: str, facts: Mapping[str, Any], batch_size: int, num_workers: int) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        self.modality = modality
        self.facts = dict(facts)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._spec: dict[str, Any] | None = None
        self._training: DenseSamples | None = None
        self._validation: DenseSamples | None = None
        self._test: DenseSamples | None = None

    @abstractmethod
    def read_training(self) -> tuple[DenseSamples, DenseSamples]:
        """The training and the validation split."""

    @abstractmethod
    def read_test(self) -> DenseSamples:
        """The test split."""

    @abstractmethod
    def describe(self, training: DenseSamples) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the spec of the modality holds besides `facts` (`mean`, `std`), and the spec's entry `target`."""

    @abstractmethod
    def expected(self) -> dict[str, object]:
        """What a stored spec must say of the target, by its key there, as far as it is known without the data."""

    def unaltered(self, training: DenseSamples) -> DenseSamples:
        """The training split with the same content every time, for overfitting on one batch."""
        return training

    def setup(self, stage: str | None = None) -> None:
        """Reads what a stage ("fit", "validate", "test", "predict"; None for all) needs, once; makes the spec."""
        if self._training is None and (self._spec is None or stage in ("fit", "validate", None)):
            self._training, self._validation = self.read_training()
        if self._spec is None:
            assert self._training is not None
            statistics, target = self.describe(self._training)
            counted = "num_classes" if target["kind"] == "segmentation" else "num_outputs"
            self._spec = {
                "modalities": {self.modality: {**self.facts, **statistics}},
                "target": target,
                counted: len(target["names"]),
            }
        if stage in ("test", "predict", None) and self._test is None:
            self._test = self.read_test()

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: a plain dict; there after `prepare_data()` and `setup("fit")`.

        Set it, before the loaders are made, to what a run directory or checkpoint holds: validation, test, prediction and
        resumed training then normalise by the stored statistics.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        target = stored.get("target", {})
        expected = stored_facts({self.modality: self.facts}, stored)
        for key, fact in self.expected().items():
            expected[f"target.{key}"] = (fact, target.get(key))
        check_stored(expected, module=self)
        self._spec = deepcopy(dict(stored))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split."""
        if self._training is None:
            self.setup("fit")
        assert self._training is not None
        samples = self.unaltered(self._training) if overfits(self) else self._training
        return shuffled_loader(samples, self._collate(), module=self)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split, in order."""
        if self._validation is None:
            self.setup("validate")
        return loader(self._validation, self._collate(), module=self)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        if self._test is None:
            self.setup("test")
        return loader(self._test, self._collate(), module=self)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        return self.test_dataloader()

    def _collate(self) -> AugmentedCollate:
        return AugmentedCollate(modality=self.modality, spec=self.spec)
