"""Base of data sets of unlabelled texts: documents in windows, splits, spec."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from perceiver.data.loading.source import Source
from perceiver.data.readers.texts.windows import (
    Document,
    Stretch,
    TextWindows,
    distinct,
    split_by_document,
    split_by_stretch,
    windows,
)
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE

FEW = 20
"""With fewer documents than this, `auto` splits within documents: whole documents would give splits of odd sizes."""


class TextSource(Source):
    """Windows of texts, as ids of their UTF-8 bytes. Subclasses read the texts.

    Batches hold `inputs[modality]` `(B, L)` and, if lengths differ, `masks[modality]` `(B, L)`. There is no target: the
    spec has modalities only. Duplicate documents are dropped, so that no text is in two splits.

    Args:
        max_length: maximum bytes in a window.
        cut_at: end windows after a word or after a line, if possible.
        split_by: `document`: whole documents are for training, validation or test. `stretch`: the beginning of each
            document is for training, the next part for validation, the end for test. `auto`: by document if there are 20
            or more.
        validation_fraction: share of the bytes for validation.
        test_fraction: share of the bytes for test.
        split_seed: seed of the split; not the training seed.
        modality: name of the modality, the key in `Batch.inputs`.

    Raises:
        ValueError: settings are invalid, or leave a split without text.
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
        modality: str = "text",
    ) -> None:
        spec = {"kind": "text", "shape": [None], "vocabulary_size": VOCABULARY_SIZE, "max_length": max_length}
        super().__init__(specs={modality: spec}, split_seed=split_seed)
        if max_length < 8:
            raise ValueError(f"data.max_length: expected windows of at least 8 bytes, got {max_length}.")
        for name, choice, possible in (
            ("cut_at", cut_at, ("word", "line")),
            ("split_by", split_by, ("auto", "document", "stretch")),
        ):
            if choice not in possible:
                raise ValueError(f"data.{name}: expected one of {', '.join(possible)}, got {choice!r}.")
        if min(validation_fraction, test_fraction) <= 0 or validation_fraction + test_fraction >= 1:
            raise ValueError(
                "data.validation_fraction, data.test_fraction: expected shares above 0 that leave data for training, "
                f"got {validation_fraction} and {test_fraction}."
            )
        self.modality = modality
        self.max_length = max_length
        self.cut_at = cut_at
        self.split_by = split_by
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self._splits: tuple[list[Stretch], list[Stretch], list[Stretch]] | None = None

    @abstractmethod
    def documents(self) -> list[Document]:
        """Return all texts in a fixed order.

        Raises:
            FileNotFoundError, ValueError: texts are not available; the message states which and why.
        """

    def read_training(self) -> tuple[TextWindows, TextWindows]:
        """Return the windows of the training and the validation split."""
        training, validation, _ = self.stretches()
        return self._windows(training, "training"), self._windows(validation, "validation")

    def read_test(self) -> TextWindows:
        """Return the windows of the test split."""
        return self._windows(self.stretches()[2], "test")

    def learn(self, training: TextWindows) -> dict[str, Any]:
        """Return the known spec: nothing is measured, and there is no target."""
        return {"modalities": self.specs}

    def known(self) -> dict[str, Any]:
        """Return kind and vocabulary, without `max_length`, which a stored spec may override."""
        spec = {key: self.specs[self.modality][key] for key in ("kind", "vocabulary_size")}
        return {"modalities": {self.modality: spec}, "target": {}}

    def take(self, stored: Mapping[str, Any]) -> None:
        """Adopt a stored spec, as in `Source.take`; windows then have the stored `max_length`."""
        super().take(stored)
        self.max_length = int(stored["modalities"][self.modality].get("max_length") or self.max_length)

    def training_documents(self) -> list[Document]:
        """Return texts for the training split alone; none by default."""
        return []

    def stretches(self) -> tuple[list[Stretch], list[Stretch], list[Stretch]]:
        """Return the texts of the three splits, read once."""
        if self._splits is None:
            documents = distinct(self.documents())
            training, validation, test = self._split(documents)
            known = {one.text for one in documents}
            more = [one for one in distinct(self.training_documents()) if one.text not in known]
            training = training + [Stretch(name=one.name, start=0, raw=one.text.encode()) for one in more]
            self._splits = training, validation, test
        return self._splits

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
        cut = [piece for one in stretches for piece in windows(one, size=self.max_length, at_lines=self.cut_at == "line")]
        if not cut:
            raise ValueError(
                f"data: too little text for a {split} split; provide more text, or a larger data.{split}_fraction."
                if split != "training"
                else "data: too little text for training; provide more."
            )
        return TextWindows(cut, modality=self.modality)
