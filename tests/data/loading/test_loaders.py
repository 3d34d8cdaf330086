"""What data modules load alike: errors, balanced and overfitting batches, stored specs."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import RandomSampler, SequentialSampler

from perceiver.batch import Sample
from perceiver.collate import Collate
from perceiver.data.loading.loaders import check_loading, check_stored, loader, training_loader
from perceiver.data.loading.order import TrainingOrder

SAMPLES = [Sample(inputs={"points": torch.ones(2, 3)}, target=number % 2, id=str(number)) for number in range(5)]
COLLATE = Collate(modalities={"points": {"kind": "points"}})


def module(**changes: Any) -> Any:
    made = LightningDataModule()
    for name, value in {"batch_size": 2, "num_workers": 0, "balanced_sampling": False, **changes}.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("arguments", "name"), [({"batch_size": 0}, "batch_size"), ({"num_workers": -1}, "num_workers")])
def test_numbers_are_checked(arguments: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name}: expected"):
        check_loading(**{"batch_size": 1, "num_workers": 0, **arguments})


def test_batches_come_in_order() -> None:
    batches = loader(SAMPLES, COLLATE, module=module())
    assert isinstance(batches.sampler, SequentialSampler)
    assert [batch.ids for batch in batches] == [["0", "1"], ["2", "3"], ["4"]]


@pytest.mark.parametrize(
    ("settings", "sampler"),
    [
        ({}, TrainingOrder),
        ({"balanced_sampling": True}, TrainingOrder),
        ({"balanced_sampling": True, "trainer": SimpleNamespace(overfit_batches=1)}, RandomSampler),
    ],
)
def test_training_is_shuffled_or_balanced(settings: dict[str, Any], sampler: type) -> None:
    batches = training_loader(SAMPLES, COLLATE, module=module(**settings), labels=[sample.target for sample in SAMPLES])
    assert type(batches.sampler) is sampler
    if isinstance(batches.sampler, TrainingOrder):
        assert (batches.sampler.weights is not None) == settings.get("balanced_sampling", False)


def test_other_facts_are_named() -> None:
    check_stored({"target.names": (["a"], ["a"])}, module=module())
    with pytest.raises(ValueError, match=r"spec\.target\.names: .* has \['a'\], but the stored spec says \['b'\]"):
        check_stored({"modalities": (["x"], ["x"]), "target.names": (["a"], ["b"])}, module=module())
