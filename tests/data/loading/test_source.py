"""What sources share: what is read when, stored specs; and their shuffling and augmentation in training only."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.data import DataModule, Source
from perceiver.data.loading.samples import InMemory, Samples
from perceiver.samples.batch import Sample


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


class Nameless(Counted):
    """Its classes are known after the training split is read."""

    def __init__(self, *, found: list[str] | None = None) -> None:
        super().__init__()
        self._class_names, self.found, self.asked = None, found, 0

    def read_class_names(self) -> list[str] | None:
        self.asked += 1
        return self.found


def test_class_names_come_from_the_data_once() -> None:
    source = Nameless(found=["a", "b"])
    assert source.class_names == source.class_names == source.named_classes() == ["a", "b"]
    assert source.asked == 1
    unknown = Nameless()
    assert unknown.known() == {"modalities": unknown.specs, "target": {}}
    with pytest.raises(RuntimeError, match="Nameless: neither the data nor a stored spec names the classes"):
        unknown.learn(Numbers("train", 3))
    unknown.take({"modalities": {"points": {"kind": "points", "shape": [None, 3]}}, "target": {"names": [1, "b"]}})
    assert unknown.class_names == ["1", "b"]


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match=r"Nameless: expected two or more classes, got \['a'\]"):
        Nameless(found=["a"]).learn(Numbers("train", 3))
    spec = Nameless(found=["a", "b", "c"]).learn(Numbers("train", 3))
    assert spec["target"] == {"kind": "classes", "names": ["a", "b", "c"], "counts": [2, 1, 0]}
    assert spec["num_classes"] == 3


def test_a_stored_spec_is_copied_and_may_lack_a_target() -> None:
    source = Counted()
    stored: dict[str, Any] = {"modalities": {"points": {"kind": "points", "shape": [None, 3], "mean": [1.0] * 3}}}
    with pytest.raises(
        ValueError, match=r"spec\.target\.names: Counted has \['even', 'odd'\], but the stored spec has None"
    ):
        source.take(stored)
    unknown = Nameless()
    unknown.take(stored)
    stored["modalities"]["points"]["mean"] = None
    assert unknown.spec is not None
    assert unknown.spec["modalities"]["points"]["mean"] == [1.0] * 3
    assert unknown.class_names is None
    with pytest.raises(ValueError, match=r"spec\.modalities: Nameless has \['points'\], but the stored spec has \[\]"):
        unknown.take({})


def test_defaults_of_sources() -> None:
    source = Counted()
    assert (source.num_workers, source.corruption_seed, source.split_seed, source.spec) == (0, 0, 0, None)
    assert (source.available, source.normalised, source.read_prediction()) == (("points",), False, None)
    training = Numbers("train", 3)
    assert source.unaltered(training) is training
    assert Source.statistics(source, training) == {}
    assert Source.read_class_names(source) is None


def test_prediction_is_the_test_split_unless_there_are_samples_for_it() -> None:
    module = counted(batch_size=2)
    assert [name for batch in module.predict_dataloader() for name in batch.ids] == [f"test/{n}" for n in range(5)]
    assert reads(module) == ["training", "test"]
    module.setup(None)
    assert reads(module) == ["training", "test"]

    class Given(Counted):
        def read_prediction(self) -> Samples:
            return InMemory(Numbers("given", 2))

    other = DataModule(Given(), batch_size=2)
    other.spec = module.spec
    assert [batch.ids for batch in other.predict_dataloader()] == [["given/0", "given/1"]]


class Made(Counted):
    """Reads normalised samples."""

    normalised = True


def test_normalised_sources_take_no_transforms() -> None:
    for setting in ("augment", "corruption"):
        with pytest.raises(ValueError, match=rf"data\.{setting}: expected null for Made, which normalises samples"):
            DataModule(Made(), **{setting: {"x": black}})
    assert DataModule(Made(), augment={}).augment == {}
    (batch,) = DataModule(Made(), batch_size=9).val_dataloader()
    assert batch.inputs["points"][0].unique().tolist() == [1.0]


class Streamed(Counted):
    """A training split without random access; counts preparations."""

    prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def loader(self, *, collate: Any, batch_size: int, num_workers: int) -> Any:
        self.settings = (batch_size, num_workers)
        return DataLoader(Numbers("stream", 2), batch_size=2, collate_fn=collate)  # type: ignore[arg-type]

    def read_training(self) -> tuple[Any, Samples]:
        return self, InMemory(Numbers("validation", 3))

    def learn(self, training: Any) -> dict[str, Any]:
        return self.known()


def test_a_stream_makes_its_own_loader() -> None:
    source = Streamed()
    module = DataModule(source, batch_size=2, num_workers=0)
    module.prepare_data()
    assert source.prepared == 1
    [batch] = module.train_dataloader()
    assert batch.ids == ["stream/0", "stream/1"]
    assert source.settings == (2, 0)
    assert DataModule(Streamed(), num_workers=3).source.num_workers == 3


class Measured(Counted):
    """Makes its spec itself."""

    def learn(self, training: Any) -> dict[str, Any]:
        return {"modalities": {name: {**own, "mean": [0.0] * 3, "std": [2.0] * 3} for name, own in self.specs.items()}}


@pytest.mark.parametrize("kind", [Counted, Measured])
def test_what_a_network_requires_replaces_what_is_learned(kind: type[Counted]) -> None:
    module = DataModule(kind())
    module.prescribe({"points": {"kind": "points", "mean": [5.0, 6.0, 7.0], "std": [0.5] * 3}})
    module.setup("fit")
    assert module.spec["modalities"]["points"] == {
        "kind": "points", "shape": [None, 3], "mean": [5.0, 6.0, 7.0], "std": [0.5] * 3,
    }  # fmt: skip
