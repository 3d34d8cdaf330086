"""A data set as the `DataModule` sees it: where its samples are, and what a model must know of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch

from perceiver.targets.classes import classes_target


class Source(ABC):
    """Finds and reads the splits of a data set; batches of them are `DataModule`'s business.

    A subclass reads the splits, and measures what normalises them. As it stands, the target is one of the classes that
    `class_names` names; a source with another target overrides `known` and `learn`.

    Args:
        facts: of each modality, by name, what is known before any sample was read: `kind`, `shape` and the like. Part of
            the spec.
        class_names: of the classes 0, 1, …; None where the data or a stored spec names them.
        split_seed: which samples are in which split; not the training seed.

    Attributes:
        spec: what a model must know of the data, a plain dict: learned from the training split, or `take`n; None before.
        num_workers: how many processes a source may start for work of its own; set by `DataModule`.
        corruption_seed: of the corruption in validation and test.
        normalised: samples are normalised by the spec when they are read, so nothing comes between reading and collation.
    """

    normalised: ClassVar[bool] = False

    def __init__(
        self,
        *,
        facts: Mapping[str, Mapping[str, Any]],
        class_names: Sequence[str] | None = None,
        split_seed: int = 0,
    ) -> None:
        self.facts = {name: dict(own) for name, own in facts.items()}
        self.split_seed = split_seed
        self.num_workers = 0
        self.corruption_seed = 0
        self.spec: dict[str, Any] | None = None
        self._class_names = None if class_names is None else list(class_names)

    def prepare(self) -> None:  # noqa: B027  (nothing to prepare is the rule)
        """Download what is absent and look whether everything is there, in one process, before any time is spent."""

    @abstractmethod
    def read_training(self) -> tuple[Any, Any]:
        """The training and the validation split: `Samples`; of training also a `Stream`. `class_names` is known then."""

    @abstractmethod
    def read_test(self) -> Any:
        """The test split: `Samples`."""

    def read_prediction(self) -> Any:
        """What `mode=predict` takes where it is not the test split; None: the test split."""
        return None

    def unaltered(self, training: Any) -> Any:
        """The training split with the same content every time, for overfitting on one batch."""
        return training

    def statistics(self, training: Any) -> Mapping[str, Mapping[str, Any]]:
        """What the spec holds of each modality besides `facts`: `mean` and `std`, or nothing."""
        return {}

    def read_class_names(self) -> list[str] | None:
        """Names of the classes as the data gives them; None if only reading the training split does, or nothing."""
        return None

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the modalities that transforms may be configured for."""
        return tuple(self.facts)

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes 0, 1, …: given, of a stored spec or of the data; None as long as they are not known."""
        if self._class_names is None:
            self._class_names = self.read_class_names()
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self._class_names = list(names)

    def named_classes(self) -> list[str]:
        """`class_names`, which must be known.

        Raises:
            RuntimeError: neither the data nor a stored spec names them.
        """
        if self.class_names is None:
            raise RuntimeError(f"{type(self).__name__}: neither the data nor a stored spec names the classes.")
        return self.class_names

    def learn(self, training: Any) -> dict[str, Any]:
        """The spec, from the samples that are trained on.

        Raises:
            ValueError: a single class, or samples that cannot be normalised.
        """
        names = self.named_classes()
        if len(names) < 2:
            raise ValueError(f"{type(self).__name__}: expected two classes or more to tell apart, got {names}.")
        statistics = self.statistics(training)
        counts = torch.as_tensor(training.labels).bincount(minlength=len(names)).tolist()
        return {
            "modalities": {name: {**own, **statistics.get(name, {})} for name, own in self.facts.items()},
            "target": classes_target(names=names, counts=counts),
            "num_classes": len(names),
        }

    def known(self) -> dict[str, Any]:
        """As much of the spec as is known without reading samples: `modalities` by name, and `target`."""
        return {"modalities": self.facts, "target": {} if self.class_names is None else {"names": self.class_names}}

    def take(self, stored: Mapping[str, Any]) -> None:
        """Take the spec of a run directory or checkpoint, before anything is read: its statistics and classes hold.

        Raises:
            ValueError: it is the spec of other data: other modalities, facts or classes.
        """
        known, theirs = self.known(), stored.get("modalities") or {}
        target = stored.get("target") or {}
        pairs: dict[str, tuple[object, object]] = {"modalities": (sorted(known["modalities"]), sorted(theirs))}
        for name, facts in known["modalities"].items():
            pairs |= {f"modalities.{name}.{key}": (own, theirs.get(name, {}).get(key)) for key, own in facts.items()}
        pairs |= {f"target.{key}": (own, target.get(key)) for key, own in known["target"].items()}
        for place, (own, other) in pairs.items():
            if own != other:
                raise ValueError(
                    f"spec.{place}: {type(self).__name__} has {own}, but the stored spec says {other}. "
                    "Use the data that the checkpoint was trained on."
                )
        self.spec = deepcopy(dict(stored))
        if "names" in target:
            self.class_names = [str(name) for name in target["names"]]
