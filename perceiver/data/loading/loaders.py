"""What all data modules do alike: batches out of samples, and a stored spec held against what they have themselves."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.batch import Batch, Sample
from perceiver.data.loading.balanced_sampling import balanced_weights
from perceiver.data.loading.order import TrainingLoader, training_order


def check_loading(*, batch_size: int, num_workers: int) -> None:
    """Raise ValueError unless there is at least one sample in a batch, and no negative number of loader processes."""
    if batch_size < 1:
        raise ValueError(f"data.batch_size: expected 1 or more, got {batch_size}.")
    if num_workers < 0:
        raise ValueError(f"data.num_workers: expected 0 (load in the training process) or more, got {num_workers}.")


def overfits(module: LightningDataModule) -> bool:
    """Whether the trainer overfits: then batches must be the same ones every time."""
    return getattr(module.trainer, "overfit_batches", 0) > 0


def training_loader(
    samples: Any, collate: Callable[[Any], Batch], *, module: Any, labels: Sequence[int] | Tensor
) -> DataLoader[Sample]:
    """Shuffled batches, or with the module's `balanced_sampling` batches with every class equally often on average.

    Args:
        samples: as in `loader`.
        collate: as in `loader`.
        module: with `batch_size`, `num_workers` and `balanced_sampling`.
        labels: the class of each sample.
    """
    weights = balanced_weights(labels) if module.balanced_sampling else None
    return shuffled_loader(samples, collate, module=module, weights=weights)


def shuffled_loader(
    samples: Any, collate: Callable[[Any], Batch], *, module: Any, weights: Tensor | None = None
) -> DataLoader[Sample]:
    """Batches in an order that is new in every epoch, which can be continued anywhere: `TrainingLoader`.

    Args:
        samples: as in `loader`.
        collate: as in `loader`.
        module: with `batch_size` and `num_workers`.
        weights: as in `TrainingOrder`.
    """
    # Lightning arranges overfitting for plain shuffling only.
    if overfits(module):
        return loader(samples, collate, module=module, shuffle=True)
    return TrainingLoader(
        samples,
        collate=collate,
        order=training_order(samples, module=module, weights=weights),
        batch_size=module.batch_size,
        num_workers=module.num_workers,
    )


def loader(samples: Any, collate: Callable[[Any], Batch], *, module: Any, **order: Any) -> DataLoader[Sample]:
    """Batches of a data module, in order unless told otherwise.

    Args:
        samples: a map-style data set.
        collate: samples of a batch to the batch.
        module: with `batch_size` and `num_workers`.
        order: `shuffle`, as `DataLoader` takes it.
    """
    return DataLoader(
        samples,
        batch_size=module.batch_size,
        num_workers=module.num_workers,
        persistent_workers=module.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
        **order,
    )


def known_spec(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of a data module's spec.

    Raises:
        RuntimeError: there is none yet.
    """
    if spec is None:
        raise RuntimeError('the spec is known once the data was seen: call prepare_data() and setup("fit") first.')
    return deepcopy(dict(spec))


def stored_facts(
    facts: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """What a data module knows of its modalities without the data, beside what a stored spec says, for `check_stored`.

    Args:
        facts: of all its modalities, by name.
        stored: the spec.
    """
    theirs = stored.get("modalities", {})
    found: dict[str, tuple[object, object]] = {"modalities": (sorted(facts), sorted(theirs))}
    for name, own in facts.items():
        for key, fact in own.items():
            found[f"modalities.{name}.{key}"] = (fact, theirs.get(name, {}).get(key))
    return found


def check_stored(facts: Mapping[str, tuple[object, object]], *, module: object) -> None:
    """Hold what a stored spec says against what a data module has.

    Args:
        facts: by their place in the spec, (the module's, the stored one).
        module: whose class the message names.

    Raises:
        ValueError: they differ.
    """
    for key, (own, stored) in facts.items():
        if own != stored:
            raise ValueError(
                f"spec.{key}: {type(module).__name__} has {own}, but the stored spec says {stored}. "
                "Use the data that the checkpoint was trained on."
            )
