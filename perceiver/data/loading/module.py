"""The data module of every data set: batches of a source's samples, for Lightning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, final

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perceiver.data.loading.collation import PreparedCollate
from perceiver.data.loading.order import TrainingLoader, balanced_weights, training_order
from perceiver.data.loading.samples import Stream, Subset, subset
from perceiver.data.loading.shared_memory import InSharedMemory, waiting
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import labelled_subset
from perceiver.data.loading.transforms import Settings, Transforms, by_modality
from perceiver.samples.batch import Sample

_STAGES: Mapping[str | None, tuple[str, ...]] = {
    "fit": ("train",),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "test"),
}


_MOST_TRIED = 100
"""Most samples to read in search of all modalities with transforms; samples may lack any."""


@final
class DataModule(LightningDataModule):
    """Batches of a data set: read, collated, augmented, corrupted, normalised, in this order.

    >>> from perceiver.data import DataModule, Digits
    >>> data = DataModule(Digits(), batch_size=50)
    >>> next(iter(data.val_dataloader())).inputs["image"].shape
    torch.Size([50, 1, 8, 8])

    Args:
        source: the data set.
        batch_size: samples per batch and process.
        num_workers: loader processes. Use 0 for samples in memory unless `augment` is slow.
        augment: transforms of training batches; see `perceiver.data.loading.transforms.Settings`.
        corruption: transforms applied after `augment`, also in validation and test, where they depend on the sample alone.
        balanced_sampling: draw training samples with replacement, every class equally often on average; an epoch keeps its
            length. False: every sample once.
        batch_tokens: most tokens per training batch, padding included, instead of `batch_size` samples: batches hold samples
            of similar length. For data whose samples have lengths, such as texts; not with `balanced_sampling`. None:
            `batch_size` samples.
        steps_per_epoch: training batches per epoch, after which a training validates and saves, whatever the number of
            samples: small data is repeated in new orders, of large data an epoch sees a part. None: an epoch sees every
            sample once. Not with `batch_tokens`, nor for data that is streamed.
        num_labelled: number of training samples to use, stratified by class and chosen by the source's `split_seed`;
            None: all. The spec is learned from these samples. Validation and test do not change.

    Raises:
        TypeError, ValueError: a setting that is invalid, or that this source does not support.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        augment: Settings = None,
        corruption: Settings = None,
        balanced_sampling: bool = False,
        batch_tokens: int | None = None,
        steps_per_epoch: int | None = None,
        num_labelled: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size: expected 1 or more, got {batch_size}.")
        if num_workers < 0:
            raise ValueError(f"data.num_workers: expected 0 (load in the training process) or more, got {num_workers}.")
        self.source = source
        self.source.num_workers = num_workers
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = self._transforms(augment, argument="data.augment")
        self.corruption = self._transforms(corruption, argument="data.corruption")
        self.source.transformed = frozenset({*self.augment, *self.corruption})
        if batch_tokens is not None and (batch_tokens < 1 or balanced_sampling):
            raise ValueError(
                f"data.batch_tokens: expected 1 or more, or null, and null with balanced_sampling; got {batch_tokens}."
            )
        if steps_per_epoch is not None and (steps_per_epoch < 1 or batch_tokens is not None):
            raise ValueError(
                f"data.steps_per_epoch: expected 1 or more, or null, and null with batch_tokens; got {steps_per_epoch}."
            )
        self.steps_per_epoch = steps_per_epoch
        self.balanced_sampling = balanced_sampling
        self.batch_tokens = batch_tokens
        self.num_labelled = num_labelled
        self._splits: dict[str, Any] = {}
        self._whole: Any = None

    @classmethod
    def of(cls, kind: Callable[..., Source], /, **settings: Any) -> DataModule:
        """Make a data module and its source from a flat set of settings, as on the command line.

        Args:
            kind: class of the source.
            settings: arguments of `kind` go to the source, arguments of this class come here. Unknown arguments go to
                `kind`, which reports them.
        """
        theirs, parameters = inspect.signature(kind).parameters, inspect.signature(cls).parameters.values()
        ours = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in theirs]
        loading = {name: settings.pop(name) for name in ours if name in settings}
        return cls(kind(**settings), **loading)

    def adjust(self, *, batch_size: int | None = None, steps_per_epoch: int | None = None, augment: Settings = None) -> None:
        """Change settings after the data was read, before loaders are made; the spec stays. None keeps a setting.

        Args:
            batch_size, steps_per_epoch, augment: see the class.
        """
        self.batch_size = self.batch_size if batch_size is None else batch_size
        self.steps_per_epoch = self.steps_per_epoch if steps_per_epoch is None else steps_per_epoch
        if augment is not None:
            self.augment = self._transforms(augment, argument="data.augment")
            self.source.transformed = frozenset({*self.augment, *self.corruption})
            self._splits.clear()  # sources that normalise samples leave that to the time after transforms

    def _transforms(self, given: Settings, *, argument: str) -> dict[str, Transforms]:
        if not given:
            return {}
        source = self.source
        if source.normalised and not source.defers_normalisation:
            raise ValueError(
                f"{argument}: expected null for {type(source).__name__}, which normalises samples when it reads them."
            )
        if not source.available:
            raise ValueError(
                f"{argument}: expected null, since {type(source).__name__} does not know its modalities yet; name them in "
                "data.modalities."
            )
        return by_modality(given, specs=source.described(), available=source.available, argument=argument)

    def prepare_data(self) -> None:
        """Let the source download missing files and check that all files exist."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Read the data of a stage ("fit", "validate", "test", "predict"; None for all) once, and make the spec."""
        for name in _STAGES[stage]:
            self.split(name)

    def split(self, name: str) -> Any:
        """Return the samples of "train", "val", "test" or "predict", read on first use."""
        if name not in self._splits:
            if name == "predict":
                samples = self.source.read_prediction()
                self._splits[name] = self.split("test") if samples is None else samples
            elif name == "test":
                if self.source.spec is None:
                    self.split("train")
                self._splits[name] = self.source.read_test()
            else:
                self._whole, self._splits["val"] = self.source.read_training()
                self._splits["train"] = self._chosen(self._whole)
                if self.source.spec is None:
                    self.source.spec = self.source.with_prescribed(self.source.learn(self._splits["train"]))
        return self._splits[name]

    def _chosen(self, training: Any) -> Any:
        """Return the samples to train on."""
        if self.balanced_sampling:
            self._labels(training, setting="balanced_sampling")
        if self.num_labelled is None:
            return training
        labels = self._labels(training, setting="num_labelled")
        return subset(training, labelled_subset(labels, size=self.num_labelled, seed=self.source.split_seed))

    def _labels(self, training: Any, *, setting: str) -> Any:
        labels = getattr(training, "labels", None)
        if labels is None:
            raise ValueError(
                f"data.{setting}: expected {'null' if setting == 'num_labelled' else 'false'}, because the target of "
                f"{type(self.source).__name__} is not a class."
            )
        return labels

    def prescribe(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """See `Source.prescribe`; to be called before `setup`."""
        self.source.prescribe(facts)

    @property
    def spec(self) -> dict[str, Any]:
        """The properties of the data that a model needs: a plain dict, available after `prepare_data()` and `setup("fit")`.

        Set it to the spec of a run directory or checkpoint before the loaders are made: validation, test, prediction and
        resumed training then normalise by the stored statistics, and number classes in the stored order.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data; see `Source.take`.
        """
        if self.source.spec is None:
            raise RuntimeError('the spec is known only after the data is read: call prepare_data() and setup("fit") first.')
        return deepcopy(self.source.spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        self.source.take(stored)
        self._splits.clear()

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled training batches, augmented and corrupted; without augmentation when overfitting."""
        training = self.split("train")
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            # The same batches every time. Lightning ensures this for plain shuffling only.
            return self._loader(self._chosen(self.source.unaltered(self._whole)), shuffle=True)
        collate = self._collate(seed=None)
        if isinstance(training, Stream):
            if self.steps_per_epoch is not None:
                raise ValueError(
                    f"data.steps_per_epoch: expected null, since {type(self.source).__name__} streams its samples; see "
                    "trainer.limit_train_batches."
                )
            return training.loader(collate=InSharedMemory(collate), batch_size=self.batch_size, num_workers=self.num_workers)
        if collate.augment or collate.corruption:
            self._try(collate, training)
        if self.batch_tokens is not None and not hasattr(training, "lengths"):
            raise ValueError(
                f"data.batch_tokens: expected null, since the samples of {type(self.source).__name__} have no lengths."
            )
        weights = balanced_weights(training.labels) if self.balanced_sampling else None
        return TrainingLoader(
            training,
            collate=InSharedMemory(collate),
            order=training_order(
                training,
                module=self,
                weights=weights,
                per_epoch=None if self.steps_per_epoch is None else self.steps_per_epoch * self.batch_size,
            ),
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the batches of the validation split, in a fixed order."""
        return self._loader(self.split("val"))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return the batches of the test split, in a fixed order."""
        return self._loader(self.split("test"))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the batches for prediction, in order: the test split, or the source's prediction samples."""
        return self._loader(self.split("predict"))

    def _loader(self, samples: Any, *, shuffle: bool = False) -> DataLoader[Sample]:
        collate = self._collate(seed=self.source.corruption_seed)
        if collate.corruption and hasattr(samples, "__getitems__"):
            samples = Subset(samples, torch.arange(len(samples)))  # samples are corrupted individually
        return DataLoader(
            samples,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=InSharedMemory(collate),
            timeout=waiting(self.num_workers),
        )

    def _collate(self, *, seed: int | None) -> PreparedCollate:
        return PreparedCollate(
            modalities=self.spec["modalities"],
            augment=self.augment,
            corruption=self.corruption,
            seed=seed,
            normalised=set(self.spec["modalities"]) - self.source.transformed if self.source.normalised else (),
        )

    def _try(self, collate: PreparedCollate, training: Any) -> None:
        """Report a transform that does not fit before training starts."""
        number = getattr(training, "example", 0)
        if hasattr(training, "__getitems__"):
            with torch.random.fork_rng(devices=[]):
                collate.check(training.__getitems__([number, number]))
            return
        missing = set(self.source.transformed)
        with torch.random.fork_rng(devices=[]):
            for position in range(number, min(number + _MOST_TRIED, len(training))):
                sample = training[position]
                if found := missing & set(sample.inputs):
                    collate.check([sample, sample])
                    missing -= found
                if not missing:
                    return
