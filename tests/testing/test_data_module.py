"""The data modules' kit: every check fails for a source or module that is broken in just that respect, and for no other."""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from kit_failures import failures
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, get_worker_info

from perceiver.data import DataModule, Source
from perceiver.data.loading.samples import InMemory, Samples
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.labels import labels_target
from perceiver.targets.pixels import field_target, segmentation_target
from perceiver.targets.text import text_target
from perceiver.targets.values import values_target
from perceiver.testing import check_data_module, data_module_checks


def sets(split: str, count: int, *, seed: int) -> list[Sample]:
    """Ragged point sets."""
    random = torch.Generator().manual_seed(seed)
    return [
        Sample(inputs={"points": torch.randn(2 + n % 3, 3, generator=random)}, target=n % 2, id=f"{split}/{n}")
        for n in range(count)
    ]


class Sets(Source):
    """A sound one; its subclasses are broken."""

    facts_of_points: ClassVar[Mapping[str, Any]] = {"kind": "points", "shape": [None, 3]}

    def __init__(self) -> None:
        super().__init__(specs={"points": self.facts_of_points}, class_names=["even", "odd"])

    def read_training(self) -> tuple[Samples, Samples]:
        return InMemory(sets("train", 9, seed=0)), InMemory(sets("val", 6, seed=1))

    def read_test(self) -> Samples:
        return InMemory(sets("test", 6, seed=2))

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        return {"points": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.5, 2.0]}}


class TupleInSpec(Sets):
    facts_of_points: ClassVar = {"kind": "points", "shape": [None, 3], "range": (0, 1)}


class AnotherShape(Sets):
    facts_of_points: ClassVar = {"kind": "points", "shape": [None, 4]}


class CountsFromOne(Sets):
    def read_test(self) -> Samples:
        return InMemory([Sample(one.inputs, target=int(one.target) + 1, id=one.id) for one in sets("test", 6, seed=2)])


class ValidatesOnTraining(Sets):
    def read_training(self) -> tuple[Samples, Samples]:
        training = sets("train", 9, seed=0)
        return InMemory(training), InMemory(training[:5])


class NoiseInTest(Sets):
    def read_test(self) -> Samples:
        return InMemory(
            [
                Sample({"points": one.inputs["points"] + torch.rand(())}, one.target, one.id)
                for one in sets("test", 6, seed=2)
            ]
        )


class ReadsAll(Sets):
    def read_training(self) -> tuple[Samples, Samples]:
        self.read_test()
        return super().read_training()


class MeasuresAgain(Sets):
    def read_training(self) -> tuple[Samples, Samples]:
        self.spec = None
        return super().read_training()


class IgnoresItsSpec(Sets):
    """Holds the spec that was set, and normalises by another."""

    normalised = True


class TakesAnySpec(Sets):
    def take(self, stored: Mapping[str, Any]) -> None:
        self.spec = deepcopy(dict(stored))


def made(source: type[Source], batch_size: int = 4) -> Callable[[], DataModule]:
    return lambda: DataModule(source(), batch_size=batch_size)


class WorkerSamples:
    """Other content in loader processes."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.labels = [int(sample.target or 0) for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        one = self.samples[index]
        assert isinstance(one.inputs["points"], torch.Tensor)
        return Sample({"points": one.inputs["points"] + float(get_worker_info() is not None)}, one.target, one.id)


class WorkersDiffer(Sets):
    def read_test(self) -> Samples:
        return WorkerSamples(sets("test", 6, seed=2))


BROKEN: list[tuple[str, type[Sets], str]] = [
    ("spec_is_plain_and_complete", TupleInSpec, r"got tuple at spec\['modalities'\]\['points'\]\['range'\]"),
    ("batches_match_spec", AnotherShape, r"4 samples of shape \(None, 4\).*train batch, 'points'.*got \(4, 4, 3\)"),
    ("targets_in_range", CountsFromOne, r"class numbers \(4,\) from 0 to 1.*test batch, got torch.int64 \(4,\) from 1 to 2"),
    ("splits_are_disjoint", ValidatesOnTraining, r"got \['train/0', 'train/1', 'train/2'\] in train and val"),
    ("deterministic_evaluation", NoiseInTest, "the same test batches every time, got other content"),
    ("test_split_stays_unread", ReadsAll, r"got a call of read_test\(\)"),
    ("stored_spec_is_used", MeasuresAgain, r"to hold after setup\('fit'\)"),
    ("stored_spec_is_used", IgnoresItsSpec, "'points' of val batches to be normalised by the std of the spec that was set"),
    ("foreign_spec_is_refused", TakesAnySpec, r"ValueError for the spec of data whose modalities are \['not_points'\]"),
    ("workers_give_the_same_batches", WorkersDiffer, "the same test batches with and without loader processes"),
]


def test_a_sound_module_passes() -> None:
    check_data_module(made(Sets))


@pytest.mark.parametrize(("name", "broken", "words"), BROKEN, ids=[broken.__name__ for _, broken, _ in BROKEN])
def test_a_broken_module_fails_its_check_only(name: str, broken: type[Sets], words: str) -> None:
    failed = failures(data_module_checks(made(broken)))
    assert list(failed) == [name], failed
    assert re.match(rf"{name}: expected .*got .*[;,] .*\w", failed[name]), failed[name]
    assert re.search(words, failed[name]), failed[name]


def test_every_check_has_a_broken_module() -> None:
    assert {name for name, _, _ in BROKEN} == {str(check) for check in data_module_checks(made(Sets))}


class Pairs(LightningDataModule):
    """No class of this package: two modalities of which samples may lack one, and a target of any kind."""

    def __init__(self, kind: str = "values") -> None:
        super().__init__()
        self.kind = kind
        self.stored: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        targets = torch.stack([torch.as_tensor(one.target) for one in self.samples("train")])
        names = ["a", "b"]
        target = {
            "values": lambda: values_target(names=names, training=targets),
            "labels": lambda: labels_target(names=names, training=targets),
        }[self.kind]()
        modalities = {"left": {"kind": "image", "shape": [1, 2, 2]}, "right": {"kind": "own", "channel_axis": -1}}
        return self.stored or {"modalities": modalities, "target": target}

    @spec.setter
    def spec(self, stored: dict[str, Any]) -> None:
        if set(stored["modalities"]) != {"left", "right"}:
            raise ValueError("other data")
        self.stored = stored

    def samples(self, split: str) -> list[Sample]:
        random = torch.Generator().manual_seed(len(split))
        samples = []
        for n in range(5):
            both = {"left": torch.rand(1, 2, 2, generator=random), "right": torch.rand(1 + n, 2, generator=random)}
            inputs = {name: x for name, x in both.items() if n == 0 or name != ("left", "right")[n % 2]}
            target = torch.rand(2, generator=random)
            samples.append(Sample(dict(inputs), (target > 0.5).float() if self.kind == "labels" else target, f"{split}/{n}"))
        return samples

    def loader(self, split: str) -> DataLoader[Any]:
        collate = Collate(modalities=self.spec["modalities"])
        return DataLoader(self.samples(split), batch_size=3, collate_fn=collate)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test_")


class Unnamed(Pairs):
    def samples(self, split: str) -> list[Sample]:
        return [Sample(one.inputs, one.target) for one in super().samples(split)]


class Unmasked(Pairs):
    """NaN for what is missing."""

    def loader(self, split: str) -> DataLoader[Any]:
        inner = super().loader(split).collate_fn

        def collate(samples: list[Sample]) -> Batch:
            batch = inner(samples)
            batch.masks.pop("left", None)
            batch.inputs["left"] = torch.full((batch.size, 1, 2, 2), float("nan"))
            assert isinstance(batch, Batch)
            return batch

        return DataLoader(self.samples(split), batch_size=3, collate_fn=collate)  # type: ignore[arg-type]


class TupleBatches(Pairs):
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([(torch.zeros(2), 1)])  # type: ignore[arg-type]


class NoSetter(Pairs):
    spec = property(lambda self: {"modalities": {"left": {"kind": "image"}}, "target": {"kind": "values"}})  # type: ignore


@pytest.mark.parametrize("kind", ["values", "labels"])
def test_modules_of_any_class_and_target(kind: str) -> None:
    check_data_module(lambda: Pairs(kind))


@pytest.mark.parametrize(
    ("broken", "name", "words"),
    [
        (Unnamed, "batches_match_spec", "an id for each of 3 samples of a train batch"),
        (Unmasked, "batches_match_spec", "finite values wherever the mask says valid in a train batch, 'left'"),
        (TupleBatches, "batches_match_spec", r"val_dataloader\(\) to yield perceiver.Batch, got list"),
        (NoSetter, "stored_spec_is_used", "add a setter to the property"),
        (NoSetter, "spec_is_plain_and_complete", r"spec\['target'\]\['names'\] to be a list of strings, got None"),
    ],
)
def test_further_mistakes(broken: type[Pairs], name: str, words: str) -> None:
    assert re.search(words, failures(data_module_checks(broken))[name])


class Texts(Pairs):
    """A text of bytes per sample."""

    def __init__(self, *, first: int = 1, beyond: int = 0, size: int = 262) -> None:
        super().__init__()
        self.first, self.beyond, self.size = first, beyond, size

    @property
    def spec(self) -> dict[str, Any]:
        target = {**text_target(tokenizer={"kind": "bytes"}, max_length=9), "vocabulary_size": self.size}
        return self.stored or {**Pairs().spec, "target": target}

    @spec.setter
    def spec(self, stored: dict[str, Any]) -> None:
        Pairs.spec.fset(self, stored)  # type: ignore[attr-defined]

    def samples(self, split: str) -> list[Sample]:
        own = super().samples(split)
        ids = [torch.tensor([self.first, *range(70, 70 + number), 2 + self.beyond]) for number in range(len(own))]
        return [
            replace(one, target=target, target_mask=torch.ones_like(target) > 0)
            for one, target in zip(own, ids, strict=True)
        ]


def test_modules_with_texts() -> None:
    check_data_module(Texts)


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"first": 5}, "targets_in_range", "expected ids .* below 262, the start id 1 first"),
        ({"beyond": 300}, "targets_in_range", "expected ids .* below 262"),
        ({"size": 300}, "spec_is_plain_and_complete", r"spec\['target'\]\['vocabulary_size'\] to be that of"),
    ],
)
def test_wrong_texts(settings: dict[str, int], name: str, words: str) -> None:
    assert re.search(words, failures(data_module_checks(lambda: Texts(**settings)))[name])


def test_the_report_names_the_module() -> None:
    with pytest.raises(AssertionError, match=r"^data module ReadsAll fails 1 of 9 checks:\n- test_split_stays_unread: "):
        check_data_module(made(ReadsAll))


class Dense(Source):
    """A sound one, of images of two sizes with a target on their grid; its subclasses are broken."""

    kind = "segmentation"

    def __init__(self) -> None:
        spec = {"kind": "image", "shape": [1, None, None], "range": [0, 255]}
        super().__init__(specs={"image": spec})

    def sample(self, split: str, n: int) -> Sample:
        random = torch.Generator().manual_seed(n + 10 * len(split))
        size = (3 + n % 2, 4)
        seen = torch.rand(size, generator=random) < 0.7
        if self.kind == "segmentation":
            target = torch.where(seen, torch.randint(0, 2, size, generator=random), 9)
        else:
            target = torch.where(seen, torch.randn(2, *size, generator=random), torch.nan)
        image = torch.rand(1, *size, generator=random)
        return Sample(inputs={"image": image}, target=target, id=f"{split}/{n}", target_mask=seen)

    def read_training(self) -> tuple[Any, Any]:
        return [self.sample("train", n) for n in range(4)], [self.sample("val", n) for n in range(3)]

    def read_test(self) -> Any:
        return [self.sample("test_", n) for n in range(3)]

    def learn(self, training: Any) -> dict[str, Any]:
        modalities = {"image": {**self.specs["image"], "mean": [0.5], "std": [0.3]}}
        if self.kind == "segmentation":
            target = segmentation_target(names=["a", "b"], counts=[1, 1], modality="image")
            return {"modalities": modalities, "target": target, "num_classes": 2}
        target = field_target(names=["u", "v"], mean=[0.0, 0.0], std=[1.0, 1.0], modality="image")
        return {"modalities": modalities, "target": target, "num_outputs": 2}

    def known(self) -> dict[str, Any]:
        return {"modalities": self.specs, "target": {"kind": self.kind}}


class DenseField(Dense):
    kind = "field"


class ClassesOutside(Dense):
    def sample(self, split: str, n: int) -> Sample:
        return replace(super().sample(split, n), target_mask=None)


class FieldOfNaN(DenseField):
    def sample(self, split: str, n: int) -> Sample:
        return replace(super().sample(split, n), target_mask=None)


class FieldWithoutChannels(DenseField):
    def sample(self, split: str, n: int) -> Sample:
        one = super().sample(split, n)
        assert isinstance(one.target, torch.Tensor)
        return replace(one, target=one.target[:1])


@pytest.mark.parametrize("source", [Dense, DenseField])
def test_modules_with_dense_targets(source: type[Dense]) -> None:
    check_data_module(made(source, batch_size=2))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (ClassesOutside, r"class numbers \(2, \*grid\) from 0 to 1 wherever target_mask says valid"),
        (FieldOfNaN, r"values \(2, 2, \*grid\), finite wherever target_mask says valid"),
        (FieldWithoutChannels, r"values \(2, 2, \*grid\)"),
    ],
)
def test_wrong_dense_targets(broken: type[Dense], words: str) -> None:
    assert re.search(words, failures(data_module_checks(made(broken, batch_size=2)))["targets_in_range"])
