"""What sources share: what is read when, stored specs; and their shuffling and augmentation in training only."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data import DataModule, Source
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


class Counted(Source):
    """Counts how often each split is read."""

    def __init__(self) -> None:
        super().__init__(specs={"points": {"kind": "points", "shape": [None, 3]}}, class_names=["even", "odd"])
        self.read: list[str] = []

    def read_training(self) -> tuple[Samples, Samples]:
        self.read.append("training")
        return InMemory(Numbers("train", 7)), InMemory(Numbers("validation", 3))

    def read_test(self) -> Samples:
        self.read.append("test")
        return InMemory(Numbers("test", 5))

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        return {"points": {"mean": [float(len(training))] * 3, "std": [2.0] * 3}}


def counted(**settings: Any) -> DataModule:
    return DataModule(Counted(), **{"batch_size": 10, **settings})


def reads(module: DataModule) -> list[str]:
    assert isinstance(module.source, Counted)
    return module.source.read


def black(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return torch.zeros_like(x), mask


def test_spec_is_known_entries_and_statistics_of_the_training_split() -> None:
    module = counted()
    module.setup("fit")
    assert module.spec == {
        "modalities": {"points": {"kind": "points", "shape": [None, 3], "mean": [7.0] * 3, "std": [2.0] * 3}},
        "target": {"kind": "classes", "names": ["even", "odd"], "counts": [4, 3]},
        "num_classes": 2,
    }
    module.spec["num_classes"] = 9
    assert module.spec["num_classes"] == 2


def test_fitting_reads_the_training_split_once_and_leaves_the_test_alone() -> None:
    module = counted()
    for stage in ("fit", "fit", "validate"):
        module.setup(stage)
    list(module.train_dataloader())
    list(module.val_dataloader())
    assert reads(module) == ["training"]


def test_testing_with_a_stored_spec_reads_the_test_only_and_normalises_by_it() -> None:
    first = counted()
    first.setup("fit")
    stored = first.spec
    stored["modalities"]["points"]["mean"] = [1.0, 1.0, 1.0]
    later = counted()
    later.spec = stored
    later.setup("test")
    assert reads(later) == ["test"]
    (batch,) = later.test_dataloader()
    assert batch.inputs["points"][:, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert len(list(later.predict_dataloader())) == 1


def test_only_training_is_shuffled_and_augmented() -> None:
    module = counted(augment={"black": black})
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert training.inputs["points"].unique().tolist() == [-3.5]
    assert validation.inputs["points"].unique().numel() == 3
    assert len({tuple(next(iter(module.train_dataloader())).ids) for _ in range(5)}) > 1
    assert validation.ids == [f"validation/{n}" for n in range(3)]


def test_augmentation_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(TypeError, match=r"data\.augment\.mine: expected a returned pair \(float tensor, mask or None\)"):
        counted(augment={"mine": lambda x, mask: x}).train_dataloader()


def test_balanced_sampling_draws_with_replacement_as_many_as_there_are() -> None:
    module = counted(balanced_sampling=True, batch_size=7)
    torch.manual_seed(0)
    drawn = [name for _ in range(40) for batch in module.train_dataloader() for name in batch.ids]
    assert len(drawn) == 40 * 7
    odd = sum(int(name.rpartition("/")[2]) % 2 for name in drawn)
    assert 105 < odd < 175, "half of them, not three of seven with certainty"
    assert len(set(drawn[:7])) < 7, "with replacement"
    assert sum(batch.size for batch in module.val_dataloader()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {"sound": {}}}, r"spec\.modalities: Counted has \['points'\], but the stored spec has \['sound'\]"),
        (
            {"modalities": {"points": {"kind": "points", "shape": [None, 2]}}},
            r"spec\.modalities\.points\.shape: Counted",
        ),
        ({"target": {"names": ["a", "b"]}}, r"spec\.target\.names: Counted has \['even', 'odd'\], .* has \['a', 'b'\]"),
    ],
)
def test_stored_specs_of_other_data_are_refused(change: dict[str, Any], message: str) -> None:
    module = counted()
    module.setup("fit")
    with pytest.raises(ValueError, match=message):
        module.spec = {**module.spec, **change}
