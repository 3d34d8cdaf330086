"""Training from shards that `mode=shard` made from a manifest, with its splits, classes and statistics."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, Dataset

from perceiver.data.loading.source import Source, stored_kinds
from perceiver.data.shards.backend import litdata
from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.folder import ShardFolder
from perceiver.data.shards.records import Decode
from perceiver.data.shards.streaming import ShardSamples, ShardStream
from perceiver.modalities import ModalitySpec
from perceiver.samples.batch import Sample


class Shards(Source):
    """Streams training samples from shards; reads validation and test samples individually, in order.

    Batches are those of `perceiver.data.Manifest`. See `ShardStream` for the meaning of an epoch with several processes.

    Args:
        shards: the folder, on a local or mounted disk.
        modalities: subset of the modalities in the shards. None: all, or those of a stored spec.
        shuffle_seed: seed of the order of training samples.
        needs_test: whether `prepare` requires a test split.

    Raises:
        FileNotFoundError: the folder is missing or has no shards.
        ShardError: the conversion is unfinished, or shards are missing, truncated, or of another version.
        ImportError: litdata is not installed.
        ValueError: the shards lack a modality, or `shards` is an address, not a folder.
    """

    normalised = True
    defers_normalisation = True

    def __init__(
        self,
        *,
        shards: str | os.PathLike[str],
        modalities: Sequence[str] | None = None,
        shuffle_seed: int = 0,
        needs_test: bool = True,
    ) -> None:
        super().__init__(specs={})
        if _is_elsewhere(shards):
            raise ValueError(f"data.shards: expected a folder on a local or mounted disk, got {shards}.")
        self.shards = Path(shards)
        self.modalities = None if modalities is None else [str(name) for name in modalities]
        self.shuffle_seed = shuffle_seed
        self.needs_test = needs_test
        self._folder: ShardFolder | None = None
        self._checked = False

    def described(self) -> Mapping[str, ModalitySpec]:
        """Return the modalities of the shards, or those that were chosen among them."""
        own = self._read().spec["modalities"]
        self._check_names(own)
        return {name: own[name] for name in (own if self.modalities is None else self.modalities)}

    def prepare(self) -> None:
        """Check that all shards exist in full size."""
        litdata()
        self._check()
        for split in ("train", "val", *(("test",) if self.needs_test else ())):
            self._require(split)

    def take(self, stored: Mapping[str, Any]) -> None:
        """Adopt a stored spec with its sizes, rates, statistics and classes.

        Raises:
            ValueError: the shards lack a modality of the spec or have another kind of it, or the target has another kind.
        """
        own = self._read().spec
        kinds = {name: entry["kind"] for name, entry in own["modalities"].items()}
        theirs = stored_kinds(stored)
        used = theirs if self.modalities is None else self.modalities
        for name in used:
            if name not in theirs or kinds.get(name) != theirs[name]:
                raise ValueError(
                    f"spec.modalities: the shards in {self.shards} have {kinds}, but the stored spec has {theirs}."
                )
        kind = (stored.get("target") or {}).get("kind")
        if kind != own["target"]["kind"]:
            raise ValueError(
                f"spec.target.kind: the shards in {self.shards} have {own['target']['kind']}, but the stored spec has "
                f"{kind!r}."
            )
        self.spec = deepcopy(dict(stored))

    def read_training(self) -> tuple[ShardStream, ShardSamples]:
        """Return the training split as a stream, and the validation split in order."""
        self._require("train")
        return ShardStream(self.shards / "train", decode=self._decode(training=True), seed=self.shuffle_seed), self._samples(
            "val"
        )

    def read_test(self) -> ShardSamples:
        """Return the test split in order."""
        return self._samples("test")

    def read_prediction(self) -> Dataset[Sample]:
        """Return all splits, concatenated, without targets."""
        self._check()
        count = self._read().samples
        parts: list[Dataset[Sample]] = [
            ShardSamples(self.shards / split, count=count[split], decode=self._decode(targets=False))
            for split in ("train", "val", "test")
            if count.get(split)
        ]
        return ConcatDataset(parts)

    def unaltered(self, training: ShardStream) -> ShardSamples:
        """Return the training split in order: repeating the same batches requires random access."""
        return self._samples("train")

    def learn(self, training: ShardStream) -> dict[str, Any]:
        """Return the spec in the folder."""
        return self._own_spec()

    def _samples(self, split: str) -> ShardSamples:
        self._require(split)
        return ShardSamples(self.shards / split, count=self._read().samples[split], decode=self._decode())

    def _own_spec(self) -> dict[str, Any]:
        """Return the spec of a checkpoint, or else that in the folder."""
        if self.spec is None:
            spec = deepcopy(self._read().spec)
            if self.modalities is not None:
                self._check_names(spec["modalities"])
                spec["modalities"] = {name: spec["modalities"][name] for name in self.modalities}
            # Samples are normalised when they are read, before `learn`.
            self.spec = self.with_prescribed(spec)
        return self.spec

    def _decode(self, *, training: bool = False, targets: bool = True) -> Decode:
        spec = self._own_spec()
        return Decode(
            modalities=list(spec["modalities"]) if self.modalities is None else self.modalities,
            specs=self.reading_specs(),
            target=spec["target"] if targets else None,
            training=training,
        )

    def _check_names(self, known: Mapping[str, Any]) -> None:
        if unknown := [name for name in self.modalities or () if name not in known]:
            raise ValueError(
                f"data.modalities: the shards in {self.shards} have {', '.join(known)}, but not {', '.join(unknown)}."
            )

    def _require(self, split: str) -> None:
        count = self._read().samples
        if not count.get(split):
            hint = " Set test=false, or convert a manifest that has test rows." if split == "test" else ""
            raise ShardError(f"data.shards: {self.shards} has no samples for the {split} split, only {count}.{hint}")
        self._check()

    def _check(self) -> None:
        """Check all files once per process: not every process prepares data, but every process reads the files."""
        if not self._checked:
            self._read().check()
            self._checked = True

    def _read(self) -> ShardFolder:
        if self._folder is None:
            self._folder = ShardFolder.read(self.shards)
        return self._folder


def _is_elsewhere(shards: str | os.PathLike[str]) -> bool:
    """Return whether litdata would read from a remote store instead of a folder."""
    text = os.fspath(shards)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|local:", text):
        return True
    parts = Path(text).resolve().parts
    return parts[1:2] == ("teamspace",) and parts[2:3] != ("studios",)
