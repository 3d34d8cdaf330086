"""Training from a folder of shards that `mode=shard` made of a manifest: splits, classes and statistics come along."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from perceiver.batch import Sample
from perceiver.collate import Collate
from perceiver.data.loading.loaders import check_loading, known_spec, loader, overfits
from perceiver.data.shards.backend import litdata
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.folder import ShardFolder
from perceiver.data.shards.records import Decode
from perceiver.data.shards.streaming import ShardSamples, streaming_loader


class Shards(LightningDataModule):
    """Streams training samples from shards; validation and test come one by one, in order.

    Batches are those of `perceiver.data.Manifest`. See `streaming_loader` for what an epoch is with several processes.

    Args:
        shards: the folder, on a disk of this machine or one that is mounted.
        modalities: some of those that the shards hold. None: all, or those of a stored spec.
        batch_size: samples per batch and process.
        num_workers: loader processes.
        shuffle_seed: of the order of training samples.
        needs_test: `prepare_data` demands a test split.

    Raises:
        FileNotFoundError: no folder, or one without shards.
        ShardError: the conversion was not finished, shards are missing or truncated, or of another version.
        ImportError: litdata is not installed.
        ValueError: a modality that the shards have not, or an address that is not a folder.
    """

    def __init__(
        self,
        *,
        shards: str | os.PathLike[str],
        modalities: Sequence[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        shuffle_seed: int = 0,
        needs_test: bool = True,
    ) -> None:
        super().__init__()
        check_loading(batch_size=batch_size, num_workers=num_workers)
        if _is_elsewhere(shards):
            raise ValueError(f"data.shards: expected a folder on a disk of this machine or a mounted one, got {shards}.")
        self.shards = Path(shards)
        self.modalities = None if modalities is None else [str(name) for name in modalities]
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.shuffle_seed = shuffle_seed
        self.needs_test = needs_test
        self._folder: ShardFolder | None = None
        self._spec: dict[str, Any] | None = None
        self._checked = False

    def prepare_data(self) -> None:
        """Looks whether all shards are there, in their full size."""
        litdata()
        self._check()
        for split in ("train", "val", *(("test",) if self.needs_test else ())):
            self._require(split)

    def setup(self, stage: str | None = None) -> None:
        """Reads what the folder says of itself, once."""
        if self._spec is None:
            spec = deepcopy(self._read().spec)
            if self.modalities is not None:
                self._check_names(spec["modalities"])
                spec["modalities"] = {name: spec["modalities"][name] for name in self.modalities}
            self._spec = spec
        if stage == "test":
            self._require("test")

    @property
    def spec(self) -> dict[str, Any]:
        """What a model must know of the data: that of the manifest; there after `setup`.

        Set it to what a run directory or checkpoint holds: its sizes, rates, statistics and classes then hold.

        Raises:
            RuntimeError: read before `setup`.
            ValueError: set to a spec without modalities of these, or of another target.
        """
        return known_spec(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        own = self._read().spec
        kinds = {name: facts["kind"] for name, facts in own["modalities"].items()}
        theirs = {name: facts.get("kind") for name, facts in stored.get("modalities", {}).items()}
        used = theirs if self.modalities is None else self.modalities
        for name in used:
            if name not in theirs or kinds.get(name) != theirs[name]:
                raise ValueError(
                    f"spec.modalities: the shards in {self.shards} have {kinds}, but the stored spec has {theirs}."
                )
        kind = (stored.get("target") or {}).get("kind")
        if kind != own["target"]["kind"]:
            raise ValueError(f"spec.target.kind: the shards in {self.shards} have {own['target']['kind']}, not {kind!r}.")
        self._spec = deepcopy(dict(stored))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split, streamed."""
        if overfits(self):
            # The same batches every time: Lightning arranges that for samples that have a position.
            return loader(self._samples("train"), self._collate(), module=self, shuffle=True)
        self._require("train")
        return streaming_loader(
            self.shards / "train",
            decode=self._decode(training=True),
            collate=self._collate(),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.shuffle_seed,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Batches of the validation split, in order."""
        return loader(self._samples("val"), self._collate(), module=self)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Batches of the test split, in order."""
        return loader(self._samples("test"), self._collate(), module=self)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Batches of all splits, one after another, without targets."""
        self._check()
        count = self._read().samples
        parts: list[Dataset[Sample]] = [
            ShardSamples(self.shards / split, count=count[split], decode=self._decode(targets=False))
            for split in ("train", "val", "test")
            if count.get(split)
        ]
        return loader(ConcatDataset(parts), self._collate(), module=self)

    def _samples(self, split: str) -> ShardSamples:
        self._require(split)
        return ShardSamples(self.shards / split, count=self._read().samples[split], decode=self._decode())

    def _collate(self) -> Collate:
        return Collate(modalities=self._setup_spec()["modalities"])

    def _decode(self, *, training: bool = False, targets: bool = True) -> Decode:
        spec = self._setup_spec()
        return Decode(
            modalities=list(spec["modalities"]) if self.modalities is None else self.modalities,
            specs=spec["modalities"],
            target=spec["target"] if targets else None,
            training=training,
        )

    def _setup_spec(self) -> dict[str, Any]:
        if self._spec is None:
            self.setup()
        return self.spec

    def _check_names(self, known: Mapping[str, Any]) -> None:
        if unknown := [name for name in self.modalities or () if name not in known]:
            raise ValueError(
                f"data.modalities: the shards in {self.shards} have {', '.join(known)}, not {', '.join(unknown)}."
            )

    def _require(self, split: str) -> None:
        count = self._read().samples
        if not count.get(split):
            hint = " Set test=false, or convert a manifest with test rows." if split == "test" else ""
            raise ShardError(f"data.shards: {self.shards} has no samples for the {split} split, only {count}.{hint}")
        self._check()

    def _check(self) -> None:
        """Looks at all files once; not every process prepares data, but every process reads them."""
        if not self._checked:
            self._read().check()
            self._checked = True

    def _read(self) -> ShardFolder:
        if self._folder is None:
            self._folder = ShardFolder.read(self.shards)
        return self._folder


def _is_elsewhere(shards: str | os.PathLike[str]) -> bool:
    """Whether litdata would read it from a store, not from a folder."""
    text = os.fspath(shards)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|local:", text):
        return True
    parts = Path(text).resolve().parts
    return parts[1:2] == ("teamspace",) and parts[2:3] != ("studios",)
