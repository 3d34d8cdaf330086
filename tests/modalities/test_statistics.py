"""Statistics of training samples against numpy, over samples of different sizes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from perceiver.modalities import channel_statistics
from perceiver.modalities.kinds import KINDS, kind_of
from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.statistics import Moments


def test_channel_statistics_of_samples_of_any_size() -> None:
    draw = np.random.default_rng(0)
    samples = [draw.normal(size=(2, 3, size)) * [[[1.0]], [[5.0]]] + 7 for size in (1, 4, 30)]
    whole = np.concatenate(samples, axis=2)
    for axis in (0, -1):
        moved = [torch.from_numpy(np.moveaxis(one, 0, axis)) for one in samples]
        found = channel_statistics(moved, channel_axis=axis)
        np.testing.assert_allclose(found["mean"], whole.mean(axis=(1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found["std"], whole.std(axis=(1, 2)), rtol=1e-12)
    with pytest.raises(ValueError, match="no training cell can be read"):
        channel_statistics([], channel_axis=0)


def test_moments_ignore_missing_values() -> None:
    """Block by block, even if a block has no value of a column."""
    draw = np.random.default_rng(1)
    values = draw.normal(size=(60, 3)) * [1, 10, 100] + [1e6, 0, -5]
    present = draw.random((60, 3)) < 0.5
    present[:20, 1] = False
    values[:, 2], present[:, 2] = 4.0, True
    moments = Moments()
    for start in (0, 20, 25):
        rows = slice(start, {0: 20, 20: 25, 25: 60}[start])
        moments.add(torch.from_numpy(values[rows]), torch.from_numpy(present[rows]))
    found = moments.entries()
    for column in range(2):
        own = values[present[:, column], column]
        assert found["mean"][column] == pytest.approx(own.mean(), rel=1e-12)
        assert found["std"][column] == pytest.approx(own.std(), rel=1e-9)
    assert (found["mean"][2], found["std"][2]) == (4.0, 1.0), "a constant is divided by 1"


def test_moments_of_a_column_without_values() -> None:
    moments = Moments()
    moments.add(torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool))
    assert moments.entries() == {"mean": [0.0], "std": [1.0]}


def measured(kind: str, samples: list[Any]) -> dict[str, Any]:
    return KINDS[kind].statistics(iter(samples), {"kind": kind})


@pytest.mark.parametrize("kind", ["image", "video"])
def test_pixel_statistics(kind: str) -> None:
    draw = np.random.default_rng(2)
    samples = [draw.random((3, *([2] if kind == "video" else []), size, 4)).astype(np.float32) for size in (3, 8)]
    for one in samples:
        one[2] = 0.25
    found = measured(kind, [torch.from_numpy(one) for one in samples])
    whole = np.concatenate([one.reshape(3, -1) for one in samples], axis=1).astype(float)
    np.testing.assert_allclose(found["mean"], whole.mean(axis=1))
    np.testing.assert_allclose(found["std"], [*whole[:2].std(axis=1), 1.0])
    with pytest.raises(ValueError, match="all training images are a single colour"):
        measured(kind, [torch.full(samples[0].shape, 0.5)])
    with pytest.raises(ValueError, match="no training cell can be read"):
        measured(kind, [])


def test_sound_keeps_its_silence() -> None:
    samples = [torch.randn(2, 30), torch.randn(2, 7) + 1]
    found = measured("audio", samples)
    assert found["mean"] == [0.0, 0.0]
    np.testing.assert_allclose(found["std"], torch.cat(samples, dim=1).double().square().mean(dim=1).sqrt(), rtol=1e-12)
    with pytest.raises(ValueError, match="all training recordings are silent"):
        measured("audio", [torch.tensor([[1.0, 2.0], [0.0, 0.0]])])
    with pytest.raises(ValueError, match="no training cell can be read"):
        measured("audio", [])


def test_point_sets_determine_the_shape() -> None:
    assert measured("points", [torch.zeros(5, 4), torch.zeros(9, 4)]) == {"shape": [None, 4]}
    with pytest.raises(ValueError, match="no training point set"):
        measured("points", [])
    with pytest.raises(ValueError, match=r"expected point sets \(points, coordinates\), got shape \(5,\)"):
        measured("points", [torch.zeros(5)])


def test_series_are_measured_where_they_are_present() -> None:
    spec = {"kind": "timeseries", "num_values": 2, "step_seconds": 0.5}
    raw = [np.array([[1.0, 10.0], [np.nan, 20.0], [5.0, 60.0]]), np.array([[3.0, np.nan]])]
    samples = [preprocess(one, spec=spec, name="x") for one in raw]
    found = kind_of(spec).statistics(samples, spec)
    assert found == {
        "mean": [3.0, 30.0],
        "std": pytest.approx([np.std([1, 5, 3]), np.std([10, 20, 60])]),
        "duration_seconds": 1.0,
    }
    alone = kind_of(spec).statistics([preprocess(raw[1], spec=spec, name="x")], spec)
    assert alone["duration_seconds"] == 1.0, "a single step has no duration"
    later = [{"values": torch.ones(2, 1), "times": torch.tensor([10.0, 10.25])}]
    assert kind_of(spec).statistics(later, spec)["duration_seconds"] == 0.25
    longer = kind_of(spec).statistics([preprocess(np.ones((7, 2)), spec=spec, name="x"), *samples], spec)
    assert longer["duration_seconds"] == 3.0


def test_kinds_measure_nothing_by_default() -> None:
    assert measured("text", [Tensor()]) == {}


def test_moments_of_a_single_value() -> None:
    moments = Moments()
    moments.add(torch.tensor([[5.0]]))
    assert moments.entries() == {"mean": [5.0], "std": [1.0]}
    moments.add(torch.tensor([[7.0]]))
    assert moments.entries() == {"mean": [6.0], "std": [1.0]}
    moments.add(torch.tensor([[12.0]]))
    assert moments.entries() == {"mean": [8.0], "std": [pytest.approx(np.std([5, 7, 12]))]}
