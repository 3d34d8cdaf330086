"""Few labels: which samples remain, that they are the training split's alone, and what cannot be asked for."""

import pytest
import torch

from perceiver.batch import Sample
from perceiver.data import Digits, SpokenDigits
from perceiver.data.loading.labelled_module import LabelledDataModule
from perceiver.data.loading.labelled_subset import labelled_subset
from perceiver.data.loading.samples import InMemory, Samples


def ids(loader: object) -> list[str]:
    return [name for batch in loader for name in batch.ids]  # type: ignore[attr-defined]


def test_classes_are_in_proportion_and_the_seed_says_which() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    index = labelled_subset(labels, size=20, seed=0)
    assert torch.bincount(labels[index]).tolist() == [12, 6, 2]
    assert torch.equal(index, labelled_subset(labels.tolist(), size=20, seed=0))
    assert not torch.equal(index, labelled_subset(labels, size=20, seed=1))
    assert labelled_subset(labels, size=100, seed=3).tolist() == list(range(100))


@pytest.mark.parametrize("size", [0, -1, 101])
def test_sizes_that_there_are_not(size: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.num_labelled: expected 1 to 100, .* got {size}\."):
        labelled_subset(torch.arange(100) % 3, size=size, seed=0)


def test_images_of_the_training_split_only() -> None:
    whole, few = Digits(), Digits(num_labelled=50)
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


class Sets(LabelledDataModule):
    """Points, twelve for training."""

    def __init__(self, *, num_labelled: int | None) -> None:
        super().__init__(
            modality="points",
            facts={"kind": "points", "shape": [None, 3]},
            class_names=["even", "odd"],
            batch_size=4,
            num_workers=0,
            augment=None,
            num_labelled=num_labelled,
        )

    def samples(self, name: str, count: int) -> Samples:
        inputs = [{"points": torch.full((2, 3), float(n))} for n in range(count)]
        return InMemory([Sample(inputs=dict(x), target=n % 2, id=f"{name}/{n}") for n, x in enumerate(inputs)])

    def read_training(self) -> tuple[Samples, Samples]:
        return self.samples("train", 12), self.samples("validation", 5)

    def read_test(self) -> Samples:
        return self.samples("test", 5)

    def statistics(self, training: Samples) -> dict[str, object]:
        return {"mean": [float(len(training))] * 3, "std": [1.0] * 3}


def test_samples_of_the_training_split_only() -> None:
    module = Sets(num_labelled=6)
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


def test_other_modules_take_it_too() -> None:
    assert SpokenDigits(root="nowhere", num_labelled=9, split_seed=4).num_labelled == 9
    assert SpokenDigits(root="nowhere", num_labelled=9, split_seed=4).split_seed == 4
