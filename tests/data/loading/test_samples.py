"""Samples in memory are read once; samples of batches are read alone, too."""

from collections.abc import Sequence

import pytest
import torch

from perceiver.data.loading.samples import BatchedSamples, InMemory, Subset, subset
from perceiver.samples.batch import Batch, Sample


class Counting:
    """Three samples; counts how often they are read."""

    def __init__(self) -> None:
        self.read = 0
        self.labels = [0, 1, 2]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        self.read += 1
        return Sample(inputs={"x": torch.full((1, 2), float(index))}, target=index, id=str(index))


def test_every_sample_is_read_once() -> None:
    source = Counting()
    split = InMemory(source)
    for _ in range(2):
        assert [split[index].id for index in range(len(split))] == ["0", "1", "2"]
    assert source.read == 3
    assert split.labels == [0, 1, 2]


def test_a_sample_without_class_is_named() -> None:
    with pytest.raises(ValueError, match="sample 'a': expected a class number"):
        InMemory([Sample(inputs={"x": torch.zeros(1, 2)}, id="a")])


class Taking(Counting):
    """Has its own way of choosing samples."""

    def take(self, index: torch.Tensor) -> list[int]:
        return index.tolist()


def test_subsets_read_chosen_samples() -> None:
    source = Counting()
    chosen = subset(source, torch.tensor([2, 0]))
    assert isinstance(chosen, Subset)
    assert source.read == 0
    assert (len(chosen), chosen.labels, [chosen[0].id, chosen[1].id]) == (2, [2, 0], ["2", "0"])
    assert source.read == 2
    assert subset(Taking(), torch.tensor([2, 0])) == [2, 0]


class Pairs(BatchedSamples):
    """Samples of two modalities, of which the odd ones lack the second."""

    def __len__(self) -> int:
        return 2

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        return Batch(
            inputs={"a": rows.float()[:, None], "b": {"x": rows[:, None]}}, masks={"b": rows % 2 == 0}, target=rows,
            ids=[str(row) for row in indices],
        )  # fmt: skip


def test_a_sample_of_batches_has_its_own_modalities_only() -> None:
    first, second = Pairs()
    assert (first.target, first.id, sorted(first.inputs)) == (0, "0", ["a", "b"])
    assert (second.target, second.id, sorted(second.inputs)) == (1, "1", ["a"])
    assert second.inputs["a"] == torch.ones(1)
    with pytest.raises(IndexError):
        Pairs()[-1]
