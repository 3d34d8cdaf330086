"""What data modules of one modality share: what is read when, stored specs, shuffling and augmentation in training only."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data.loading.labelled_module import LabelledDataModule
from perceiver.data.loading.samples import InMemory, Samples


class Numbers:
    """Points that hold the number of their sample."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count
        self.labels = [index % 2 for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(inputs={"points": torch.full((2, 3), index + 1.0)}, target=index % 2, id=f"{self.name}/{index}")


class Counted(LabelledDataModule):
    """Counts how often each split is read."""

    def __init__(
        self, *, augment: Mapping[str, Any] | None = None, batch_size: int = 10, balanced_sampling: bool = False
    ) -> None:
        super().__init__(
            modality="points",
            facts={"kind": "points", "shape": [None, 3]},
            class_names=["even", "odd"],
            batch_size=batch_size,
            num_workers=0,
            augment=augment,
            balanced_sampling=balanced_sampling,
        )
        self.read: list[str] = []

    def read_training(self) -> tuple[Samples, Samples]:
        self.read.append("training")
        return InMemory(Numbers("train", 7)), InMemory(Numbers("validation", 3))

    def read_test(self) -> Samples:
        self.read.append("test")
        return InMemory(Numbers("test", 5))

    def statistics(self, training: Samples) -> dict[str, Any]:
        return {"mean": [float(len(training))] * 3, "std": [2.0] * 3}


def black(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return torch.zeros_like(x), mask


def test_spec_is_facts_and_statistics_of_the_training_split() -> None:
    module = Counted()
    module.setup("fit")
    assert module.spec == {
        "modalities": {"points": {"kind": "points", "shape": [None, 3], "mean": [7.0] * 3, "std": [2.0] * 3}},
        "target": {"kind": "classes", "names": ["even", "odd"], "counts": [4, 3]},
        "num_classes": 2,
    }
    module.spec["num_classes"] = 9
    assert module.spec["num_classes"] == 2


def test_fitting_reads_the_training_split_once_and_leaves_the_test_alone() -> None:
    module = Counted()
    for stage in ("fit", "fit", "validate"):
        module.setup(stage)
    list(module.train_dataloader())
    list(module.val_dataloader())
    assert module.read == ["training"]


def test_testing_with_a_stored_spec_reads_the_test_only_and_normalises_by_it() -> None:
    first = Counted()
    first.setup("fit")
    stored = first.spec
    stored["modalities"]["points"]["mean"] = [1.0, 1.0, 1.0]
    later = Counted()
    later.spec = stored
    later.setup("test")
    assert later.read == ["test"]
    (batch,) = later.test_dataloader()
    assert batch.inputs["points"][:, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert len(list(later.predict_dataloader())) == 1


def test_only_training_is_shuffled_and_augmented() -> None:
    module = Counted(augment={"black": black})
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert training.inputs["points"].unique().tolist() == [-3.5]
    assert validation.inputs["points"].unique().numel() == 3
    assert len({tuple(next(iter(module.train_dataloader())).ids) for _ in range(5)}) > 1
    assert validation.ids == [f"validation/{n}" for n in range(3)]


def test_augmentation_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(TypeError, match=r"data\.augment\.mine: expected \(float tensor, mask or None\) in return"):
        Counted(augment={"mine": lambda x, mask: x}).train_dataloader()


def test_balanced_sampling_draws_with_replacement_as_many_as_there_are() -> None:
    module = Counted(balanced_sampling=True, batch_size=7)
    torch.manual_seed(0)
    drawn = [name for _ in range(40) for batch in module.train_dataloader() for name in batch.ids]
    assert len(drawn) == 40 * 7
    odd = sum(int(name.rpartition("/")[2]) % 2 for name in drawn)
    assert 105 < odd < 175, "half of them, not three of seven with certainty"
    assert len(set(drawn[:7])) < 7, "with replacement"
    assert sum(batch.size for batch in module.val_dataloader()) == 3
