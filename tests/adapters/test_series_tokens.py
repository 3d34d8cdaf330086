"""Patches and convolutional stages of time series against loops over single series; gaps, ends, times, and exact laws."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver.adapters import TimeSeriesConvStages, TimeSeriesPatches
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens

POSITION = Fourier(num_bands=3, resolution=(8,))
YEAR_2026 = 1_767_225_600.0


def patches(*, embedding_channels: int | None = None, step_seconds: float | None = None) -> TimeSeriesPatches:
    torch.manual_seed(0)
    return TimeSeriesPatches(
        num_values=2, duration_seconds=20.0, patch=4, embedding_channels=embedding_channels, step_seconds=step_seconds,
        position=POSITION,
    )  # fmt: skip


def stages(*, step_seconds: float | None = None) -> TimeSeriesConvStages:
    torch.manual_seed(0)
    return TimeSeriesConvStages(
        num_values=2, duration_seconds=20.0, stage_channels=[5, 6], strides=[1, 2], kernel_size=5,
        step_seconds=step_seconds, position=POSITION,
    )  # fmt: skip


def series(steps: int = 10) -> tuple[dict[str, Tensor], Tensor]:
    """Two series, the second of seven steps, with a step and some values missing; NaN where nothing is valid."""
    torch.manual_seed(1)
    mask = torch.arange(steps) < torch.tensor([[steps], [7]])
    mask[0, 4:8] = False  # a whole patch
    mask[1, 2] = False
    present = torch.rand(2, steps, 2) < 0.7
    present[..., 0] = True
    values = torch.randn(2, steps, 2)
    values[~(present & mask[..., None])] = torch.nan
    times = YEAR_2026 + (torch.rand(2, steps, dtype=torch.float64) + 0.5).cumsum(dim=1)
    return {"values": values, "times": times, "present": present}, mask


def dense(x: dict[str, Tensor], mask: Tensor) -> Tensor:
    """Values and presence, zero where nothing is valid."""
    valid = x["present"] & mask[..., None]
    return torch.cat([torch.where(valid, x["values"], 0.0), valid.float()], dim=-1)


def expected_positions(x: dict[str, Tensor], mask: Tensor, size: int) -> list[list[Tensor]]:
    """The encoding of the mean time of the valid steps of each group; for groups without any, nothing."""
    found = []
    for times, valid in zip(x["times"], mask, strict=True):
        since = times - times[valid][0]
        groups = [since[start : start + size][valid[start : start + size]] for start in range(0, len(times), size)]
        coordinates = [group.mean() / 10 - 1 if len(group) else torch.nan for group in groups]
        (own,) = POSITION((torch.tensor(coordinates, dtype=torch.float32)[None, :, None],))
        found.append(list(own[0]))
    return found


def valid_tokens(tokens: Tokens) -> Tensor:
    assert tokens.mask is not None
    return tokens.dense()[tokens.mask]


def test_patches_of_values_presence_and_mean_time() -> None:
    x, mask = series()
    tokens = patches()(x, mask)
    assert tokens.grid == (3,)
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True, False, True], [True, True, False]]
    content, places = dense(x, mask), expected_positions(x, mask, 4)
    for row, token in tokens.mask.nonzero().tolist():
        steps = F.pad(content[row, 4 * token : 4 * token + 4], (0, 0, 0, 4))[:4]
        expected = torch.cat([steps.flatten(), places[row][token]])
        torch.testing.assert_close(tokens.dense()[row, token], expected, atol=1e-4, rtol=0)
    embedded = patches(embedding_channels=7)
    assert isinstance(embedded.embed, torch.nn.Linear)
    own = embedded(x, mask)
    torch.testing.assert_close(own.parts[0][0, 0], embedded.embed(content[0, :4].flatten()))


def test_stages_are_convolutions_of_values_and_presence() -> None:
    x, mask = series()
    adapter = stages()
    tokens = adapter(x, mask)
    assert tokens.grid == (5,)
    first, second = adapter.stages.stages
    for row in range(2):
        content = dense(x, mask)[row].T[None]
        once = F.gelu(first.norm(F.conv1d(content, first.conv.weight, first.conv.bias, padding=2).mT).mT)
        once = torch.where(mask[row], once, 0.0)
        twice = F.conv1d(F.pad(once, (1, 2)), second.conv.weight, second.conv.bias, stride=2)
        expected = F.gelu(second.norm(twice.mT))[0]
        assert tokens.mask is not None
        for token in tokens.mask[row].nonzero().flatten().tolist():
            torch.testing.assert_close(tokens.parts[0][row, token], expected[token], atol=1e-5, rtol=1e-5)
    places = expected_positions(x, mask, 2)
    for row, token in tokens.mask.nonzero().tolist():  # type: ignore[union-attr]
        torch.testing.assert_close(tokens.dense()[row, token, 6:], places[row][token], atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [patches, stages])
def test_a_series_alone_equals_the_same_series_padded(make: object) -> None:
    """Also where the rate is that of the adapter."""
    for step_seconds in (None, 0.5):
        adapter = make(step_seconds=step_seconds)  # type: ignore[operator]
        x, mask = series()
        if step_seconds is not None:
            del x["times"]
        whole = adapter(x, mask)
        alone = adapter({name: part[1:, :7] for name, part in x.items()}, mask[1:, :7])
        torch.testing.assert_close(valid_tokens(alone), whole.dense()[1][whole.mask[1]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [patches, stages])
def test_series_without_times_share_positions(make: object) -> None:
    adapter = make(step_seconds=0.5)  # type: ignore[operator]
    size = 4 if make is patches else 2
    values = torch.randn(3, 10, 2)
    regular = adapter({"values": values})
    assert [part.shape[0] for part in regular.parts] == [3, 1]
    times = torch.arange(10, dtype=torch.float64).mul(0.5).expand(3, -1)
    timed = adapter({"values": values, "times": times})
    complete = 10 // size
    torch.testing.assert_close(regular.dense()[:, :complete], timed.dense()[:, :complete], atol=1e-5, rtol=0)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"TimeSeriesPatches\.patch: expected at least 1, got 0"):
        TimeSeriesPatches(num_values=1, duration_seconds=1.0, patch=0, position=POSITION)
    with pytest.raises(ValueError, match=r"kernel_size: expected an odd number from 3, got 4"):
        TimeSeriesConvStages(num_values=1, duration_seconds=1.0, kernel_size=4, position=POSITION)
    with pytest.raises(ValueError, match=r"stage_channels, strides: expected a width and a stride"):
        TimeSeriesConvStages(num_values=1, duration_seconds=1.0, strides=[1], position=POSITION)
    with pytest.raises(ValueError, match=r"TimeSeries: expected values \(batch, steps, 1\)"):
        TimeSeriesPatches(num_values=1, duration_seconds=1.0, patch=2, position=POSITION)({"values": torch.zeros(1, 4, 3)})
