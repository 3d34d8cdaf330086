"""What data modules of texts without labels have in common: documents in windows, splits, spec, data loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perceiver.batch import Sample
from perceiver.collate import Collate
from perceiver.data.loading.loaders import (
    check_loading,
    check_stored,
    known_spec,
    loader,
    shuffled_loader,
)
from perceiver.data.readers.text_windows import (
    Document,
    Stretch,
    TextWindows,
    distinct,
    split_by_document,
    split_by_stretch,
    windows,
)
from perceiver.modalities.text_bytes import VOCABULARY_SIZE

FEW = 20
"""Documents, fewer than which are cut in parts unless told otherwise: whole ones would make splits of odd sizes."""


class TextDataModule(LightningDataModule, ABC):
    """Trains, validates and tests on windows of texts, as ids of their UTF-8 bytes. Subclasses read the texts.

    Batches hold `inputs[modality]` `(B, L)` and, where lengths differ, `masks[modality]` `(B, L)`. There is no target: the
    spec has modalities only. Documents of the same text count once, so that no text is in two splits.

    Args:
        max_length: bytes of a window at most.
        cut_at: windows end behind a word or behind a line, where that is possible.
        split_by: `document`: whole documents are for training, validation or test. `stretch`: of each the beginning trains,
            what follows validates and the end tests. `auto`: by document if there are 20 or more.
        validation_fraction: share of the bytes for validation.
        test_fraction: share of the bytes for the test.
        split_seed: which documents; not the training seed.
        batch_size: windows per batch and process.
        num_workers: loader processes; 0 is right, all text is in memory.
        modality: its name, the key in `Batch.inputs`.

    Raises:
        ValueError: settings that make no sense, or leave a split without text.
    """

    def __init__(
        self,
        *,
        max_length: int,
        cut_at: Literal["word", "line"],
        split_by: Literal["auto", "document", "stretch"],
        validation_fraction: float,
        test_fraction: float,
        split_seed: int,
        batch_size: int,
        num_workers: int,
        modality: str = "text",
    ) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        if max_length < 8:
            raise ValueError(f"data.max_length: expected windows of 8 bytes or more, got {max_length}.")
        for name, said, possible in (
            ("cut_at", cut_at, ("word", "line")),
            ("split_by", split_by, ("auto", "document", "stretch")),
        ):
            if said not in possible:
                raise ValueError(f"data.{name}: expected one of {', '.join(possible)}, got {said!r}.")
        if min(validation_fraction, test_fraction) <= 0 or validation_fraction + test_fraction >= 1:
            raise ValueError(
                "data.validation_fraction, data.test_fraction: expected shares above 0 that leave some to train on, got "
                f"{validation_fraction} and {test_fraction}."
            )
        self.modality = modality
        self.max_length = max_length
        self.cut_at = cut_at
        self.split_by = split_by
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._spec: dict[str, Any] | None = None
        self._splits: tuple[list[Stretch], list[Stretch], list[Stretch]] | None = None
        self._training: TextWindows | None = None
        self._validation: TextWindows | None = None
        self._test: TextWindows | None = None

    @abstractmethod
    def documents(self) -> list[Document]:
        """All texts, in an order that does not change.

        Raises:
            FileNotFoundError, ValueError: they cannot be had; says which and why.
        """

    def setup(self, stage: str | None = None) -> None:
        """Reads the texts once, and cuts what a stage ("fit", "validate", "test", "predict"; None for all) needs."""
        if self._splits is None:
            self._splits = self._split(distinct(self.documents()))
        if self._spec is None:
            self._spec = {
                "modalities": {
                    self.modality: {
                        "kind": "text",
                        "shape": [None],
                        "vocabulary_size": VOCABULARY_SIZE,
                        "max_length": self.max_length,
                    }
                }
            }
        if stage in ("fit", "validate", None) and self._training is None:
            self._training, self._validation = self.read_training()
        if stage in ("test", "predict", None) and self._test is None:
            self._test = self.read_test()

    def read_training(self) -> tuple[TextWindows, TextWindows]:
        """The windows of the training and the validation split."""
        assert self._splits is not None
        return self._windows(self._splits[0], "training"), self._windows(self._splits[1], "validation")

    def read_test(self) -> TextWindows:
        """The windows of the test split."""
        assert self._splits is not None
        return self._windows(self._splits[2], "test")

    def _split(self, documents: list[Document]) -> tuple[list[Stretch], list[Stretch], list[Stretch]]:
        whole = self.split_by == "document" or (self.split_by == "auto" and len(documents) >= FEW)
        if not whole:
            return split_by_stretch(
                documents, validation_fraction=self.validation_fraction, test_fraction=self.test_fraction
            )
        return split_by_document(
            documents,
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )

    def _windows(self, stretches: Sequence[Stretch], split: str) -> TextWindows:
        cut = [
            piece for one in stretches for piece in windows(one, size=self.max_length, at_lines=self.cut_at == "line")
        ]
        if not cut:
            raise ValueError(
                f"data: there is too little text for a {split} split; give more, or a larger data.{split}_fraction."
                if split != "training"
                else "data: there is too little text to train on; give more."
            )
        return TextWindows(cut, modality=self.modality)

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: a plain dict; there after `prepare_data()` and `setup("fit")`.

        Set it, before the loaders are made, to what a run directory or checkpoint holds: its `max_length` then holds.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to the spec of other data: another modality, kind or vocabulary.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        theirs = stored.get("modalities", {})
        own = theirs.get(self.modality, {})
        check_stored(
            {
                "modalities": ([self.modality], sorted(theirs)),
                f"modalities.{self.modality}.kind": ("text", own.get("kind")),
                f"modalities.{self.modality}.vocabulary_size": (VOCABULARY_SIZE, own.get("vocabulary_size")),
            },
            module=self,
        )
        self.max_length = int(own.get("max_length") or self.max_length)
        self._training = self._validation = self._test = None
        self._spec = deepcopy(dict(stored))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split."""
        if self._training is None:
            self.setup("fit")
        return shuffled_loader(self._training, self._collate(), module=self)

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

    def _collate(self) -> Collate:
        return Collate(modalities=self.spec["modalities"])
