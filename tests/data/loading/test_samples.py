"""Samples in memory are read once."""

import pytest
import torch

from perceiver.data.loading.samples import InMemory, Subset, subset
from perceiver.samples.batch import Sample


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
