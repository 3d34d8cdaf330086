"""Augmentation of recordings: levels and shifts as measured on what comes out, own parameters for every recording, masks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perceiver.data.augmentation.audio import RandomGain, RandomNoise, RandomSpeed, RandomTimeShift

ALL: list[Callable[[], nn.Module]] = [
    lambda: RandomGain(decibels=(-6, 6)),
    lambda: RandomNoise(snr_decibels=(0, 30)),
    lambda: RandomTimeShift(seconds=(-0.02, 0.05), sample_rate=1000),
    lambda: RandomSpeed(factor=(0.8, 1.25)),
]


def batch(lengths: list[int], *, channels: int = 1, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.full((len(lengths), channels, max(lengths)), fill)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    for row, length in enumerate(lengths):
        x[row, :, :length] = torch.randn(channels, length) + 3
        mask[row, :length] = True
    return x, mask


@pytest.mark.parametrize("make", ALL)
def test_recordings_differ_and_runs_repeat(make: Callable[[], nn.Module]) -> None:
    augment, x = make(), torch.randn(1, 1, 200).expand(16, 1, 200)
    torch.manual_seed(3)
    first, _ = augment(x, None)
    torch.manual_seed(3)
    again, _ = augment(x, None)
    assert torch.equal(first, again)
    assert len({tuple(row.flatten().tolist()) for row in first}) > 10  # whole samples: a shift may come twice
    assert not torch.equal(augment(x, None)[0], again)


@pytest.mark.parametrize("make", ALL)
def test_input_is_left_as_it_was_and_masked_content_goes_nowhere(make: Callable[[], nn.Module]) -> None:
    x, mask = batch([30, 100, 60], fill=float("nan"))
    before = x.clone()
    y, valid = make()(x, mask)
    torch.testing.assert_close(x, before, equal_nan=True)
    assert valid.dtype == torch.bool
    assert y[valid[:, None]].isfinite().all()


@pytest.mark.parametrize("make", ALL)
def test_absent_recordings_stay_absent(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(3, 2, 50)
    presence = torch.tensor([True, False, True])
    for mask in (presence, presence[:, None].expand(3, 50)):
        _, valid = make()(x, mask)
        assert valid.reshape(3, -1).any(1).tolist() == [True, False, True]
    y, valid = make()(x, torch.zeros(3, dtype=torch.bool))
    assert not valid.any()
    assert y.shape[:2] == (3, 2)
    assert y.shape[2] >= 1


def test_gain_keeps_to_its_range_in_decibels() -> None:
    x = torch.ones(2000, 1, 3)
    y, mask = RandomGain(decibels=(-6, 12))(x, None)
    assert mask is None
    decibels = 20 * y[:, 0, 0].log10()
    assert decibels.min() >= -6.001
    assert decibels.max() <= 12.001
    assert decibels.mean().item() == pytest.approx(3, abs=0.5)
    assert torch.equal(y[:, :, 0], y[:, :, 2])


def test_noise_has_the_ratio_asked_for_whatever_the_padding() -> None:
    x, mask = batch([4000, 1000, 2000], channels=2)
    x[1] *= 100
    y, _ = RandomNoise(snr_decibels=(10, 10))(x, mask)
    noise = y - x
    for row, length in enumerate(mask.sum(1).tolist()):
        ratio = x[row, :, :length].square().mean() / noise[row, :, :length].square().mean()
        assert 10 * ratio.log10().item() == pytest.approx(10, abs=0.4)
        assert not noise[row, :, length:].any()


def test_noise_on_some_recordings_and_never_on_silence() -> None:
    x = torch.randn(400, 1, 20)
    x[:100] = 0
    y, _ = RandomNoise(snr_decibels=(0, 0), probability=0.25)(x, None)
    changed = (y != x).flatten(1).any(1)
    assert not changed[:100].any()
    assert 50 < changed.sum() < 100


@pytest.mark.parametrize("masked", [True, False])
def test_a_shift_adds_silence_or_cuts(masked: bool) -> None:
    for milliseconds in (7, 0, -7, -49, -500):
        x, mask = batch([50, 30] if masked else [50, 50])
        augment = RandomTimeShift(seconds=(milliseconds / 1000,) * 2, sample_rate=1000)
        y, valid = augment(x, mask if masked else None)
        for row, length in enumerate(mask.sum(1).tolist()):
            shift = max(milliseconds, 1 - length)
            expected = torch.cat([torch.zeros(max(shift, 0)), x[row, 0, max(-shift, 0) : length]])
            assert torch.equal(y[row, 0, valid[row]], expected)
            assert valid[row].sum() == len(expected)
            assert valid[row, : len(expected)].all()
        assert y.shape[2] == valid.sum(1).max()


def test_holes_move_along() -> None:
    x, mask = torch.randn(1, 1, 6), torch.tensor([[True, False, True, True, False, False]])
    y, valid = RandomTimeShift(seconds=(2, 2), sample_rate=1)(x, mask)
    assert valid.tolist() == [[True, True, True, False, True, True]]
    assert torch.equal(y[0, 0, 4:], x[0, 0, 2:4])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomGain(decibels=(1, 0)), r"RandomGain\.decibels: expected \(smallest, largest\), got \[1, 0\]"),
        (lambda: RandomGain(decibels=(0.0, float("inf"))), r"RandomGain\.decibels"),
        (lambda: RandomNoise(snr_decibels=(3,)), r"RandomNoise\.snr_decibels"),
        (lambda: RandomNoise(snr_decibels=(3, 4), probability=1.5), r"RandomNoise\.probability: expected 0 to 1, got 1.5"),
        (lambda: RandomTimeShift(seconds=(0, 1), sample_rate=0), r"RandomTimeShift\.sample_rate"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    time = torch.arange(800) / 800
    x = torch.stack([torch.sin(2 * torch.pi * 40 * time), torch.sin(2 * torch.pi * 40 * time)])[:, None]
    mask = torch.ones(2, 800, dtype=torch.bool)
    mask[1, 400:] = False
    x[1, :, 400:] = 9
    y, valid = RandomSpeed(factor=(factor, factor))(x, mask)
    assert valid.sum(dim=1).tolist() == [round(800 / factor), round(400 / factor)]
    assert torch.equal(y[~valid[:, None]], torch.zeros(int((~valid).sum())))
    expected = torch.sin(2 * torch.pi * 40 * factor * torch.arange(y.shape[2]) / 800)
    for row in (0, 1):
        whole = valid[row].nonzero().flatten()[:-2]
        torch.testing.assert_close(y[row, 0, whole], expected[whole], atol=0.02, rtol=0)


@pytest.mark.parametrize("factor", [(0.0, 1.0), (1.2, 1.1), (1.0,)])
def test_speeds_that_cannot_be(factor: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"RandomSpeed\.factor: expected"):
        RandomSpeed(factor=factor)
