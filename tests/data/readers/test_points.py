"""Point sets of several sizes in one tensor."""

import pytest
import torch

from perceiver.data.readers.points import PointSets


def sets(starts: list[int], ends: list[int]) -> PointSets:
    return PointSets(
        points=torch.arange(24.0).view(8, 3),
        starts=torch.tensor(starts),
        ends=torch.tensor(ends),
        labels=list(range(len(starts))),
        identify=lambda index: f"set/{index}",
    )


def test_a_sample_is_a_slice() -> None:
    split = sets([5, 0, 1], [8, 1, 5])
    assert len(split) == 3
    sizes = []
    for index, start in enumerate([5, 0, 1]):
        sample = split[index]
        assert (sample.target, sample.id) == (index, f"set/{index}")
        assert sample.inputs["points"][0, 0] == 3 * start
        sizes.append(tuple(sample.inputs["points"].shape))
    assert sizes == [(3, 3), (1, 3), (4, 3)]


def test_a_set_without_points_is_named() -> None:
    with pytest.raises(ValueError, match=r"sample 'set/1': expected at least one point, got none"):
        sets([0, 3, 3], [3, 3, 8])
