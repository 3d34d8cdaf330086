"""Transforms of a manifest's samples: the steps of every other data set, per modality, whatever is missing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from manifest_cases import MODALITIES, RATE, animals, write_csv
from torch import Tensor

from perceiver.data import DataModule, Manifest
from perceiver.data.augmentation.audio import RandomGain, RandomTimeShift
from perceiver.data.augmentation.corruption import RandomPixelNoise
from perceiver.data.augmentation.images import RandomShiftFlip
from perceiver.data.augmentation.tables import RandomCellDropout, RandomNumberNoise
from perceiver.data.augmentation.texts import RandomWordDropout
from perceiver.samples.batch import Batch
from perceiver.testing import Check, data_module_checks

SMALL: dict[str, Any] = {"image_size": (8, 8), "sample_rate": RATE, "batch_size": 5, "num_workers": 0}


def unchanged(x: Any, mask: Any = None) -> Any:
    return x, mask


def same(image: Tensor) -> Tensor:
    return image


EVERYTHING: dict[str, Any] = {
    "photo": {"flip": RandomShiftFlip(shift=1, flip=True)},
    "sound": {"gain": RandomGain(decibels=[-6, 6]), "shift": RandomTimeShift(seconds=[0, 0.01], sample_rate=RATE)},
    "note": {"words": RandomWordDropout(rate=[0.2, 0.5])},
    "patient": {"noise": RandomNumberNoise(std=0.1), "cells": RandomCellDropout(rate=0.3)},
}

NOTHING: dict[str, Any] = {
    "photo": {"none": same},
    **{name: {"none": unchanged} for name in ("sound", "vitals", "cloud", "note", "patient")},
}


def fitted(tmp_path: Path, **arguments: Any) -> DataModule:
    path = write_csv(tmp_path / "m.csv", animals(tmp_path))
    made = DataModule.of(Manifest, manifest=path, **{"modalities": MODALITIES, **SMALL, **arguments})
    made.prepare_data()
    made.setup("fit")
    return made


def batches(data: DataModule, split: str = "train") -> list[Batch]:
    torch.manual_seed(3)
    return list(getattr(data, f"{split}_dataloader")())


def valid(batch: Batch, name: str) -> list[Tensor]:
    """The valid content of each sample of a modality."""
    x = batch.inputs[name]
    tensors = [x] if isinstance(x, Tensor) else [x[key] for key in sorted(x)]
    mask = batch.masks.get(name)
    if mask is None:
        return tensors
    if mask.ndim == 1:
        return [tensor[mask] for tensor in tensors]
    channels_first = name == "sound"
    return [tensor.movedim(1, -1)[mask] if channels_first else tensor[mask] for tensor in tensors]


def test_deferred_normalisation_gives_the_same_numbers(tmp_path: Path) -> None:
    """Bit by bit, whether samples are normalised when they are read or after transforms that change nothing."""
    plain, deferred = fitted(tmp_path), fitted(tmp_path, augment=NOTHING, corruption=NOTHING)
    assert plain.spec == deferred.spec
    for split in ("train", "val", "test", "predict"):
        for one, other in zip(batches(plain, split), batches(deferred, split), strict=True):
            assert one.ids == other.ids
            for name in one.inputs:
                for a, b in zip(valid(one, name), valid(other, name), strict=True):
                    assert torch.equal(a, b), (split, name)


def test_every_modality_is_augmented_in_training_only(tmp_path: Path) -> None:
    plain, augmented = fitted(tmp_path), fitted(tmp_path, augment=EVERYTHING)
    changed = set()
    for one, other in zip(batches(plain), batches(augmented), strict=True):
        assert one.ids == other.ids
        for name in one.inputs:
            absent = _absent(one, name)
            assert torch.equal(absent, _absent(other, name)), "what is absent stays absent"
            if not all(map(torch.equal, valid(one, name), valid(other, name))):
                changed.add(name)
    assert changed == set(EVERYTHING)
    for split in ("val", "test", "predict"):
        for one, other in zip(batches(plain, split), batches(augmented, split), strict=True):
            for name in one.inputs:
                assert all(map(torch.equal, valid(one, name), valid(other, name))), (split, name)


def _absent(batch: Batch, name: str) -> Tensor:
    mask = batch.masks.get(name, torch.ones(batch.size, dtype=torch.bool))
    return ~mask.flatten(1).any(dim=1) if mask.ndim > 1 else ~mask


def test_batches_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Also with loader processes."""
    first, second = (
        batches(fitted(tmp_path, augment=EVERYTHING)),
        batches(fitted(tmp_path, augment=EVERYTHING, num_workers=1)),
    )
    for one, other in zip(first, second, strict=True):
        for name in one.inputs:
            assert all(map(torch.equal, valid(one, name), valid(other, name))), name


def test_corruption_of_evaluation_depends_on_the_sample_alone(tmp_path: Path) -> None:
    noise = {"photo": {"noise": RandomPixelNoise(std=[0.2, 0.2])}, "patient": {"cells": RandomCellDropout(rate=0.9)}}
    found = [fitted(tmp_path, corruption=noise, batch_size=size) for size in (2, 7)]
    photos, rows = [], []
    for data in found:
        whole = batches(data, "predict")
        photos.append({id_: photo for batch in whole for id_, photo in zip(batch.ids, batch.inputs["photo"], strict=True)})  # type: ignore[arg-type]
        rows.append(torch.cat([batch.inputs["patient"]["present"] for batch in whole]))  # type: ignore[index]
    assert all(torch.equal(photo, photos[1][id_]) for id_, photo in photos[0].items())
    assert torch.equal(rows[0], rows[1])
    assert 24 <= int(rows[0].sum()) < 30


@pytest.mark.parametrize("check", data_module_checks(lambda: None), ids=str)
def test_the_kit(check: Check, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", animals(tmp_path))

    def made() -> DataModule:
        return DataModule.of(
            Manifest, manifest=path, modalities=MODALITIES, augment=EVERYTHING, **{**SMALL, "batch_size": 4}
        )

    next(one for one in data_module_checks(made, test_readers=("_read_test",)) if one.name == check.name)()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augment": {"picture": {}}}, r"data\.augment\.picture: expected settings of photo, sound, "),
        (
            {"augment": {"note": {"up": lambda x, mask: (x.float(), mask)}}},
            r"data\.augment\.note\.up: .* \(tensor of torch.int64",
        ),
        ({"augment": {"patient": {"up": lambda x, mask: ({}, mask)}}}, r"data\.augment\.patient\.up: .*a dict of numbers, "),
        ({"augment": {"photo": {"up": lambda x: x[:, 1:]}}}, r"data\.augment\.photo\.up: .* into \(3, 7, 8\)"),
        ({"augment": {"photo": {}}, "modalities": None}, r"data\.augment: .* name them in data\.modalities"),
    ],
)
def test_transforms_that_do_not_fit(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fitted(tmp_path, **arguments).train_dataloader()
