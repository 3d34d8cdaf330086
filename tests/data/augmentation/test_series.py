"""Augmentation of series against single series computed with NumPy; gaps, padding, absence, and what stays."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from perceiver.data.augmentation.series import (
    RandomCrop,
    RandomJitter,
    RandomScale,
    RandomSpanMasking,
    RandomTimeWarp,
    RandomValueDropout,
)

LENGTHS = (9, 14, 0, 1)


def batch(*, missing: bool = True, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Series of several lengths at irregular times, one absent, values and steps missing; NaN where nothing is valid."""
    torch.manual_seed(seed)
    mask = torch.arange(14) < torch.tensor(LENGTHS)[:, None]
    times = 1.7e9 + (torch.rand(4, 14, dtype=torch.float64) + 0.1).cumsum(dim=1)
    values = torch.randn(4, 14, 2)
    series = {"values": values, "times": times}
    if missing:
        mask[1, 5] = False
        series["present"] = torch.rand(4, 14, 2) < 0.8
        series["present"][..., 0] = True
        values[~series["present"]] = 0
    values[~mask] = torch.nan
    return series, mask


ALL: dict[str, Any] = {
    "jitter": RandomJitter(std=0.1),
    "scale": RandomScale(scale=[0.5, 2]),
    "crop": RandomCrop(share=[0.3, 1]),
    "warp": RandomTimeWarp(strength=0.5),
    "span": RandomSpanMasking(share=[0.2, 0.5]),
    "values": RandomValueDropout(rate=0.5),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("missing", [True, False])
def test_presence_and_padding(name: str, missing: bool) -> None:
    """Absent series stay absent, present ones present, and what was not valid never reaches what is."""
    series, mask = batch(missing=missing)
    after, valid = ALL[name](series, mask)
    assert valid.any(dim=1).tolist() == [True, True, False, True]
    assert after["values"][valid].isfinite().all()
    assert (after["times"].diff(dim=1)[valid[:, 1:]] > 0).all()
    if missing:
        assert not after["values"][valid][~after["present"][valid]].any(), "what is missing is 0"
    alone, alone_valid = ALL[name]({key: x[3:, :1] for key, x in series.items()}, torch.tensor([False]))
    assert not alone_valid.any()
    assert alone["values"].shape == (1, 1, 2)


@pytest.mark.parametrize("name", ALL)
def test_a_single_present_value_is_kept(name: str) -> None:
    series = {"values": torch.zeros(64, 20, 2), "present": torch.zeros(64, 20, 2, dtype=torch.bool)}
    series["values"][:, 7, 1] = 3
    series["present"][:, 7, 1] = True
    after, mask = ALL[name](series, None)
    valid = torch.ones(after["values"].shape[:2], dtype=torch.bool) if mask is None else mask
    assert (after["present"] & valid[..., None]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", ALL)
def test_without_times_or_mask(name: str) -> None:
    after, mask = ALL[name]({"values": torch.randn(3, 7, 2)}, None)
    assert "times" not in after
    assert after["values"].isfinite().all()
    assert mask is None or mask.any(dim=1).all()


def test_separate_draws() -> None:
    series = {"values": torch.randn(1, 30, 2).expand(8, -1, -1), "times": torch.arange(30.0).double().expand(8, -1)}
    for name, transform in ALL.items():
        after, mask = transform(series, None)
        rows = [(after["values"][row], None if mask is None else mask[row]) for row in range(8)]
        different = sum(
            not torch.equal(rows[0][0], x) or (m is not None and not torch.equal(rows[0][1], m)) for x, m in rows
        )  # type: ignore[arg-type]
        assert different >= 3, name


def test_jitter_and_scale() -> None:
    series = {"values": torch.ones(500, 20, 2)}
    noisy, _ = RandomJitter(std=0.3)(series, None)
    assert noisy["values"].std().item() == pytest.approx(0.3, abs=0.01)
    scaled, _ = RandomScale(scale=[0.5, 1.5])(series, None)
    factor = scaled["values"]
    assert torch.equal(factor, factor[:, :1].expand_as(factor)), "one for each value of a series"
    assert (factor.amin().item(), factor.amax().item()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1.5, abs=0.01))


def test_crops_are_spans_of_the_series() -> None:
    series, mask = batch(missing=False)
    lengths = set()
    for _ in range(50):
        after, valid = RandomCrop(share=[0.4, 0.9])(series, mask)
        for row in (0, 1):
            steps = int(valid[row].sum())
            lengths.add(steps / LENGTHS[row])
            start = series["times"][row].tolist().index(float(after["times"][row, 0]))
            assert torch.equal(after["values"][row, :steps], series["values"][row, start : start + steps])
            assert start + steps <= LENGTHS[row]
    assert min(lengths) == pytest.approx(0.4, abs=0.06)
    assert max(lengths) == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize("hole", [[], [0], [5, 6]])
def test_warped_values_lie_on_the_series(hole: list[int]) -> None:
    """Against `numpy.interp` at the warped times of the valid steps."""
    series, mask = batch(missing=False)
    mask[:2, hole] = False
    series["values"][:2, hole] = torch.nan
    transform = RandomTimeWarp(strength=0.7, sections=3)
    torch.manual_seed(5)
    after, valid = transform(series, mask)
    assert valid is mask
    torch.manual_seed(5)
    places = np.zeros((4, 14))
    for row in (0, 1):
        times = series["times"][row].numpy()[mask[row].numpy()]
        places[row, mask[row].numpy()] = (times - times[0]) / (times[-1] - times[0])
    warped = transform._warped(torch.from_numpy(places)).numpy()
    for row in (0, 1):
        own = mask[row].numpy()
        for value in range(2):
            expected = np.interp(warped[row, own], places[row, own], series["values"][row, own, value].numpy())
            np.testing.assert_allclose(after["values"][row, own, value].numpy(), expected, atol=1e-5)
        assert warped[row, own][0] == 0
        assert warped[row, own][-1] == pytest.approx(1)
        assert (np.diff(warped[row, own]) > 0).all()
        assert np.abs(warped[row, own] - places[row, own]).max() > 0.005
    assert torch.equal(after["values"][3, :1], series["values"][3, :1])
    still, _ = RandomTimeWarp(strength=0.0)(series, mask)
    torch.testing.assert_close(still["values"], series["values"], equal_nan=True, atol=1e-5, rtol=0)


def test_hidden_spans_and_values() -> None:
    series, mask = batch(missing=False)
    for _ in range(20):
        _, valid = RandomSpanMasking(share=[0.3, 0.5])(series, mask)
        hidden = (mask & ~valid)[1]
        assert 4 <= int(hidden.sum()) <= 7
        [places] = hidden.nonzero(as_tuple=True)
        assert int(places[-1] - places[0]) + 1 == len(places), "one span"
        assert int(valid[3].sum()) == 1
    after, _ = RandomValueDropout(rate=1.0)({"values": torch.randn(5, 6, 3)}, None)
    assert after["present"].any(dim=1).sum(dim=1).tolist() == [1] * 5
    assert not after["values"][~after["present"]].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomJitter(std=-1), r"RandomJitter\.std: expected 0 or more"),
        (lambda: RandomScale(scale=[0, 1]), r"RandomScale\.scale: expected factors above 0"),
        (lambda: RandomCrop(share=[0.5, 1.5]), r"RandomCrop\.share: expected shares above 0"),
        (lambda: RandomCrop(share=[0.9, 0.5]), r"RandomCrop\.share: expected \(smallest, largest\), got \[0\.9, 0\.5\]"),
        (lambda: RandomTimeWarp(strength=0.1, sections=0), r"RandomTimeWarp\.sections: expected 1 or more"),
        (lambda: RandomSpanMasking(share=[-1, 0]), r"RandomSpanMasking\.share: expected shares from 0 to 1"),
        (lambda: RandomValueDropout(rate=2), r"RandomValueDropout\.rate: expected 0 to 1"),
    ],
)
def test_arguments_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
