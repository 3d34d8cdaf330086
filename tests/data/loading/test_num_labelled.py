"""Few labels: which samples remain, that they are the training split's alone, and what cannot be asked for."""

from typing import Any

import pytest
import torch

from perceiver.data import DataModule, DialedDigits, Digits, PythonTexts, Source, SpokenDigits
from perceiver.data.loading.samples import InMemory
from perceiver.data.loading.splits import labelled_subset
from perceiver.samples.batch import Sample


def ids(loader: object) -> list[str]:
    return [name for batch in loader for name in batch.ids]  # type: ignore[attr-defined]


def test_classes_are_in_proportion_and_the_seed_says_which() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    index = labelled_subset(labels, size=20, seed=0)
    assert torch.bincount(labels[index]).tolist() == [12, 6, 2]
    assert torch.equal(index, labelled_subset(labels.tolist(), size=20, seed=0))
    assert not torch.equal(index, labelled_subset(labels, size=20, seed=1))
    assert labelled_subset(labels, size=100, seed=3).tolist() == list(range(100))
    assert (len(labelled_subset(labels, size=1, seed=0)), len(labelled_subset(labels, size=99, seed=0))) == (1, 99)


@pytest.mark.parametrize("size", [0, -1, 101])
def test_sizes_that_there_are_not(size: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.num_labelled: expected 1 to 100, .* got {size}\."):
        labelled_subset(torch.arange(100) % 3, size=size, seed=0)


def test_images_of_the_training_split_only() -> None:
    whole, few = DataModule.of(Digits), DataModule.of(Digits, num_labelled=50)
    for module in (whole, few):
        module.setup("fit")
        module.setup("test")
    chosen = ids(few.train_dataloader())
    assert len(chosen) == len(set(chosen)) == 50
    assert set(chosen) < set(ids(whole.train_dataloader()))
    assert ids(few.val_dataloader()) == ids(whole.val_dataloader())
    assert ids(few.test_dataloader()) == ids(whole.test_dataloader())
    pixels = torch.cat([batch.inputs["image"] for batch in few.train_dataloader()])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5), "normalised by what is trained on, no more"
    assert sum(few.spec["target"]["counts"]) == 50
    assert max(few.spec["target"]["counts"]) - min(few.spec["target"]["counts"]) <= 1


class Sets(Source):
    """Points, twelve for training."""

    def __init__(self) -> None:
        super().__init__(specs={"points": {"kind": "points", "shape": [None, 3]}}, class_names=["even", "odd"])

    def samples(self, name: str, count: int) -> InMemory:
        inputs = [{"points": torch.full((2, 3), float(n))} for n in range(count)]
        return InMemory([Sample(inputs=dict(x), target=n % 2, id=f"{name}/{n}") for n, x in enumerate(inputs)])

    def read_training(self) -> tuple[InMemory, InMemory]:
        return self.samples("train", 12), self.samples("validation", 5)

    def read_test(self) -> InMemory:
        return self.samples("test", 5)

    def statistics(self, training: InMemory) -> dict[str, dict[str, object]]:
        return {"points": {"mean": [float(len(training))] * 3, "std": [1.0] * 3}}


def test_samples_of_the_training_split_only() -> None:
    module = DataModule(Sets(), num_labelled=6, batch_size=4)
    module.setup("fit")
    batches = list(module.train_dataloader())
    targets = torch.cat([batch.target for batch in batches])  # type: ignore[misc]
    assert torch.bincount(targets).tolist() == [3, 3]
    for batch in batches:
        for name, points in zip(batch.ids, batch.inputs["points"], strict=True):
            assert float(points[0, 0]) + 6 == int(name.removeprefix("train/"))
    assert len(ids(module.val_dataloader())) == 5
    assert module.spec["target"]["counts"] == [3, 3]
    assert module.spec["modalities"]["points"]["mean"] == [6.0] * 3


def test_the_seed_is_that_of_the_splits() -> None:
    module = DataModule.of(SpokenDigits, root="nowhere", num_labelled=9, split_seed=4)
    assert (module.num_labelled, module.source.split_seed) == (9, 4)
    first, second = (DataModule.of(Digits, num_labelled=20, split_seed=seed) for seed in (0, 1))
    assert sorted(ids(first.train_dataloader())) != sorted(ids(second.train_dataloader()))


@pytest.mark.parametrize(("setting", "value"), [("num_labelled", 1), ("balanced_sampling", True)])
def test_data_without_classes(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.{setting}: expected (null|false), because the target of PythonTexts"):
        DataModule.of(PythonTexts, **{setting: value}).train_dataloader()


def test_clips_that_are_drawn_anew() -> None:
    data = DataModule(DialedDigits(num_frames=2, canvas=(8, 8), missing={"audio": 0.5}), num_labelled=40, batch_size=20)
    batches = list(data.train_dataloader())
    chosen = data.split("train")
    digits = {int(number) % len(chosen.samples.images.labels) for number in chosen.index}
    assert sum(data.spec["target"]["counts"]) == len(digits), "each digit counts once"
    assert torch.cat([batch.target for batch in batches]).bincount().tolist() == [4] * 10  # type: ignore[misc]
