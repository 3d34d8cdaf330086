"""A data set as the `DataModule` sees it: its splits, and the spec that a model needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch

from perceiver.data.loading.folds import Fold
from perceiver.modalities import ModalitySpec
from perceiver.modalities.preprocess import without_normalisation
from perceiver.runtime.regularising import regularising
from perceiver.targets.classes import classes_target


def stored_kinds(stored: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of each modality of a stored spec.

    Raises:
        ValueError: the spec has no modalities, or one without a kind.
    """
    modalities = stored.get("modalities")
    if not isinstance(modalities, Mapping) or not modalities:
        raise ValueError("spec.modalities: expected one or more modalities, each with a kind; the stored spec has none.")
    kinds = {name: entry.get("kind") if isinstance(entry, Mapping) else None for name, entry in modalities.items()}
    if missing := [name for name, kind in kinds.items() if not isinstance(kind, str)]:
        raise ValueError(f"spec.modalities.{missing[0]}.kind: expected a string; the stored spec has none.")
    return {str(name): str(kind) for name, kind in kinds.items()}


_FREE_FACTS = ("shape", "crop_fraction", "interpolation", "max_seconds")
"""Facts of a modality that the data's own settings decide; networks that cannot take them reject the samples."""


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…"


@regularising(augment=None)
class Source(ABC):
    """Finds and reads the splits of a data set; `DataModule` makes the batches.

    A subclass reads the splits and measures their statistics. By default, the target is a class named in `class_names`; a
    source with another target overrides `known` and `learn`.

    Args:
        specs: entry of each modality in the spec, as far as it is known before any sample is read: `kind`, `shape`, …
        class_names: names of the classes 0, 1, …; None if the data or a stored spec names them.
        split_seed: determines which samples are in which split; not the training seed.
        fold: the fold of a cross-validation that is the test split; None: no cross-validation. A source with an official
            test split makes folds of the other samples, and leaves the official test samples out.

    Attributes:
        spec: what a model must know of the data, a plain dict; learned in training or set by `take`. None before.
        num_workers: number of processes that a source may start to read its files; set by `DataModule`.
        corruption_seed: seed of the corruption in validation and test.
        normalised: whether samples are normalised by the spec when they are read, so that nothing comes between reading
            and collation, unless the source `defers_normalisation`.
        defers_normalisation: whether samples are read by `reading_specs`, which leave the normalisation of modalities with
            transforms to the time after these.
        transformed: modalities with transforms; set by `DataModule`.
    """

    normalised: ClassVar[bool] = False
    defers_normalisation: ClassVar[bool] = False

    def __init__(
        self,
        *,
        specs: Mapping[str, ModalitySpec],
        class_names: Sequence[str] | None = None,
        split_seed: int = 0,
        fold: Fold | None = None,
    ) -> None:
        self.specs = {name: dict(own) for name, own in specs.items()}
        self.split_seed = split_seed
        self.fold = fold
        self.num_workers = 0
        self.corruption_seed = 0
        self.spec: dict[str, Any] | None = None
        self.transformed: frozenset[str] = frozenset()
        self.prescribed: dict[str, dict[str, Any]] = {}
        self._class_names = None if class_names is None else list(class_names)

    def prepare(self) -> None:  # noqa: B027  (nothing to prepare is the rule)
        """Download missing files and check that all files exist, in a single process, before training starts."""

    @abstractmethod
    def read_training(self) -> tuple[Any, Any]:
        """Return the training split (`Samples` or a `Stream`) and the validation split; then `class_names` is known."""

    @abstractmethod
    def read_test(self) -> Any:
        """Return the test split: `Samples`."""

    def read_prediction(self) -> Any:
        """Return the samples for `mode=predict`; None: the test split."""
        return None

    def unaltered(self, training: Any) -> Any:
        """Return the training split without random variation, for overfitting on a single batch."""
        return training

    def statistics(self, training: Any) -> Mapping[str, Mapping[str, Any]]:
        """Return the entries of the spec besides `specs`, by modality: `mean` and `std`, or nothing."""
        return {}

    def read_class_names(self) -> list[str] | None:
        """Return the class names of the data; None if they are unknown, or known only after reading the training split."""
        return None

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the modalities for which transforms may be configured."""
        return tuple(self.described())

    def described(self) -> Mapping[str, ModalitySpec]:
        """Return the modalities of the samples with what is known of them before any sample is read: at least the kind."""
        return self.specs

    def reading_specs(self) -> dict[str, ModalitySpec]:
        """Return the specs to preprocess samples by when they are read: the normalisation of `transformed` comes later."""
        assert self.spec is not None
        return {
            name: without_normalisation(entry) if name in self.transformed else entry
            for name, entry in self.spec["modalities"].items()
        }

    @property
    def left_out(self) -> list[str]:
        """Reasons for the samples that were left out so far."""
        return []

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes 0, 1, …, from the argument, a stored spec or the data; None while they are unknown."""
        if self._class_names is None:
            self._class_names = self.read_class_names()
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self._class_names = list(names)

    def named_classes(self) -> list[str]:
        """Return `class_names`, which must be known.

        Raises:
            RuntimeError: neither the data nor a stored spec names the classes.
        """
        if self.class_names is None:
            raise RuntimeError(f"{type(self).__name__}: neither the data nor a stored spec names the classes.")
        return self.class_names

    def learn(self, training: Any) -> dict[str, Any]:
        """Return the spec, learned from the training samples; `with_prescribed` is applied to it.

        Raises:
            ValueError: a single class, or samples that cannot be normalised.
        """
        names = self.named_classes()
        if len(names) < 2:
            raise ValueError(f"{type(self).__name__}: expected two or more classes, got {names}.")
        statistics = self.statistics(training)
        counts = torch.as_tensor(training.labels).bincount(minlength=len(names)).tolist()
        return {
            "modalities": {name: {**own, **statistics.get(name, {})} for name, own in self.specs.items()},
            "target": classes_target(names=names, counts=counts),
            "num_classes": len(names),
        }

    def with_prescribed(self, learned: Mapping[str, Any]) -> dict[str, Any]:
        """Return a learned spec in which the entries that networks require replace measured ones."""
        modalities = {name: {**own, **self.prescribed.get(name, {})} for name, own in learned["modalities"].items()}
        return {**learned, "modalities": modalities}

    def known(self) -> dict[str, Any]:
        """Return the part of the spec that is known without reading samples: `modalities` by name, and `target`."""
        return {"modalities": self.specs, "target": {} if self.class_names is None else {"names": self.class_names}}

    def prescribe(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Adopt entries of the spec that a network requires, by modality, before anything is read; `take` overrides them.

        By default only normalisation can be prescribed: `mean` and `std` of each channel replace measured ones.

        Raises:
            ValueError: a modality is unknown, or samples have another sample rate, vocabulary or the like than required.
        """
        described = self.described()
        for name, entries in facts.items():
            own = described.get(name)
            if own is None:
                raise ValueError(f"model.adapters.{name}: the data has only the modalities {', '.join(sorted(described))}.")
            for key, value in entries.items():
                if key not in ("mean", "std", *_FREE_FACTS) and own.get(key) != value:
                    raise ValueError(
                        f"model.adapters.{name}: its network requires {key}={_shortened(value)}, but this data has "
                        f"{_shortened(own.get(key))}. Set data.{key} if it has this setting, or use data=manifest."
                    )
            channels = (own.get("shape") or [None])[0]
            normalisation = {key: entries[key] for key in ("mean", "std") if key in entries}
            self.prescribed[name] = {
                key: values if channels in (None, len(values)) else [sum(values) / len(values)] * channels
                for key, values in normalisation.items()
            }

    def take(self, stored: Mapping[str, Any]) -> None:
        """Adopt the spec of a run directory or checkpoint, with its statistics and classes, before anything is read.

        Raises:
            ValueError: the spec belongs to other data: other modalities, shapes or classes.
        """
        known, theirs = self.known(), stored.get("modalities") or {}
        target = stored.get("target") or {}
        pairs: dict[str, tuple[object, object]] = {"modalities": (sorted(known["modalities"]), sorted(theirs))}
        for name, entry in known["modalities"].items():
            pairs |= {f"modalities.{name}.{key}": (own, theirs.get(name, {}).get(key)) for key, own in entry.items()}
        pairs |= {f"target.{key}": (own, target.get(key)) for key, own in known["target"].items()}
        for place, (own, other) in pairs.items():
            if own != other:
                raise ValueError(
                    f"spec.{place}: {type(self).__name__} has {own}, but the stored spec has {other}. Use the data "
                    "that the checkpoint was trained on."
                )
        self.spec = deepcopy(dict(stored))
        if "names" in target:
            self.class_names = [str(name) for name in target["names"]]
