"""Time series: values, presence and times, missing values, clocks far from zero, ragged series, errors that name steps."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model_around
from torch import Tensor

from perceiver.adapters import TimeSeries
from perceiver.tokens.positions import Fourier, LearnedTable
from perceiver.tokens.tokens import Tokens

Series = dict[str, Tensor]
YEAR_2026 = 1_767_225_600.0  # seconds since 1970
DAY = 86_400.0


def time_series(*, step_seconds: float | None = None, table: bool = False, duration_seconds: float = DAY) -> TimeSeries:
    torch.manual_seed(0)
    return TimeSeries(
        num_values=3,
        duration_seconds=duration_seconds,
        step_seconds=step_seconds,
        position=LearnedTable(grid=(9,), channels=4, std=1.0) if table else Fourier(num_bands=4, resolution=(64,)),
    )


model_of = partial(model_around, "vitals")


def some_series(steps: int, *, start: float = YEAR_2026, present: bool = True) -> Series:
    """One series `(T, F)` at irregular times, some values missing and NaN; every step has at least its first value."""
    gaps = torch.rand(steps, dtype=torch.float64) * 2 * DAY / 12 + 1
    series = {"values": torch.randn(steps, 3), "times": start + gaps.cumsum(0)}
    if present:
        series["present"] = torch.rand(steps, 3) > 0.4
        series["present"][:, 0] = True
        series["values"][~series["present"]] = float("nan")
    return series


def single(series: Series) -> Series:
    return {key: x[None] for key, x in series.items()}


def pad(rows: list[Series], *, extra: int = 0, fill: float = float("nan")) -> tuple[Series, Tensor]:
    """Series of several lengths in one batch, what is past their ends filled, and the mask of their steps."""
    length = max(len(row["values"]) for row in rows) + extra
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    batch: Series = {}
    for key, first in rows[0].items():
        shape = (len(rows), length, *first.shape[1:])
        batch[key] = torch.full(shape, True if first.dtype == torch.bool else fill, dtype=first.dtype)
        for row, series in enumerate(rows):
            batch[key][row, : len(series[key])] = series[key]
            mask[row, : len(series[key])] = True
    return batch, mask


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


def by_hand(series: Series, *, duration: float = DAY) -> np.ndarray:
    """The tokens (T, C) of one series in float64: values, presence, time and its Fourier features."""
    values = series["values"].double().numpy()
    present = series["present"].numpy() if "present" in series else np.ones_like(values, dtype=bool)
    times = series["times"].numpy()
    time = (-1 + 2 * (times - times[0]) / duration)[:, None]
    phase = np.pi * np.linspace(1, 32, 4) * time
    content = np.where(present, values, 0)
    return np.concatenate([content, present, time, np.sin(phase), np.cos(phase)], axis=1)


# ---- what tokens hold


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("start", [0.0, -5.0, YEAR_2026])
def test_tokens_are_values_presence_and_time(present: bool, start: float) -> None:
    series = some_series(11, start=start, present=present)
    adapter = time_series()
    tokens = adapter(single(series))
    assert tokens.grid == (11,)
    assert tokens.channels == adapter.channels == 3 + 3 + 9
    np.testing.assert_allclose(tokens.dense()[0].numpy(), by_hand(series), rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("table", [False, True])
def test_parts_stay_factored(table: bool) -> None:
    position = 4 if table else 9
    values, times = torch.randn(2, 7, 3), torch.arange(7, dtype=torch.float64).expand(2, 7)
    present = torch.ones(2, 7, 3, dtype=torch.bool)
    regular, irregular = time_series(step_seconds=1.0, table=table), time_series(table=table)
    cases = [
        (regular({"values": values}), (1, 1, 3), (1, 7, position)),
        (regular({"values": values, "present": present}), (2, 7, 3), (1, 7, position)),
        (irregular({"values": values, "times": times}), (1, 1, 3), (2, 7, position)),
        (irregular({"values": values, "times": times, "present": present}), (2, 7, 3), (2, 7, position)),
    ]
    for tokens, presence, place in cases:
        assert [tuple(part.shape) for part in tokens.parts] == [(2, 7, 3), presence, place]
        assert tokens.channels == irregular.channels
    for tokens, _, _ in cases[1:]:
        torch.testing.assert_close(tokens.dense(), cases[0][0].dense())


def test_regular_steps_equal_the_times_they_stand_for() -> None:
    adapter = time_series(step_seconds=600.0)
    values = torch.randn(2, 200, 3)
    times = YEAR_2026 + torch.arange(200, dtype=torch.float64) * 600
    given_times = adapter({"values": values, "times": times.expand(2, -1)})
    torch.testing.assert_close(given_times.dense(), adapter({"values": values}).dense(), rtol=0, atol=2e-5)
    assert given_times.parts[2][0, -1, 0] > 1, "longer than the reference duration"


def test_a_clock_keeps_its_milliseconds() -> None:
    """Since 1970, float32 seconds are 128 apart."""
    adapter = time_series(duration_seconds=1.0)
    times = YEAR_2026 + torch.arange(1000, dtype=torch.float64) / 1000
    coordinates = adapter({"values": torch.zeros(1, 1000, 3), "times": times[None]}).parts[2][0, :, 0]
    np.testing.assert_allclose(coordinates.numpy(), -1 + 2 * np.arange(1000) / 1000, atol=1e-6)


def test_times_are_relative_to_the_first_valid_step() -> None:
    series = some_series(8)
    mask = torch.tensor([[False, False, True, True, False, True, True, True]])
    batch = single(series)
    batch["times"][0, [0, 4]] = float("nan")
    batch["times"][0, 1] = YEAR_2026 + 1e9
    tokens = time_series()(batch, mask)
    later = {key: x[mask[0]] for key, x in series.items()}
    assert torch.equal(valid(tokens, 0), valid(time_series()(single(later)), 0))


def test_a_step_without_any_value_is_masked() -> None:
    series = some_series(6)
    series["present"][2] = False
    tokens = time_series()(single(series))
    assert tokens.mask is not None
    assert tokens.mask[0].tolist() == [True, True, False, True, True, True]
    mask = torch.tensor([[True] * 4 + [False] * 2])
    tokens = time_series()(single(series), mask)
    assert tokens.mask is not None
    assert tokens.mask[0].tolist() == [True, True, False, True, False, False]


def test_a_missing_value_is_not_a_zero() -> None:
    series = some_series(5, present=False)
    series["values"][3, 1] = 0.0
    there, missing = torch.ones(5, 3, dtype=torch.bool), torch.ones(5, 3, dtype=torch.bool)
    missing[3, 1] = False
    tokens = [time_series()(single({**series, "present": present})).dense()[0] for present in (there, missing)]
    assert (tokens[0] != tokens[1]).nonzero().tolist() == [[3, 4]]


# ---- masks


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    extra=st.integers(0, 5),
    fill=st.sampled_from([float("nan"), float("inf"), 0.0, -1e30]),
    kind=st.sampled_from(["irregular", "regular", "table"]),
    present=st.booleans(),
)
def test_padded_among_longer_ones_equals_alone(
    lengths: list[int], extra: int, fill: float, kind: str, present: bool
) -> None:
    adapter = time_series(step_seconds=60.0 if kind == "regular" else None, table=kind == "table")
    model = model_of(adapter).eval()
    rows = [some_series(length, present=present) for length in lengths]
    if kind == "regular":
        rows = [{key: x for key, x in row.items() if key != "times"} for row in rows]
    batch, mask = pad(rows, extra=extra, fill=fill)
    tokens, output = adapter(batch, mask), model({"vitals": batch}, {"vitals": mask})
    assert all(part.isfinite().all() for part in tokens.parts)
    for row, series in enumerate(rows):
        assert torch.equal(valid(tokens, row), valid(adapter(single(series)), 0))
        alone = model({"vitals": single(series)})
        torch.testing.assert_close(output[row], alone[0], rtol=1e-5, atol=1e-5)


def test_presence_masks_whole_series() -> None:
    batch, _ = pad([some_series(6), some_series(6), some_series(6)])
    batch["values"][1], batch["times"][1] = float("nan"), float("nan")
    tokens = time_series()(batch, torch.tensor([True, False, True]))
    assert tokens.mask is not None
    assert tokens.mask.all(1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()
    assert all(part.isfinite().all() for part in tokens.parts)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("present", [False, True])
def test_masked_nan_reaches_neither_output_nor_gradients(table: bool, present: bool) -> None:
    model = model_of(time_series(table=table))
    batch, mask = pad([some_series(3, present=present), some_series(9, present=present)])
    values = batch["values"].requires_grad_()
    output = model({"vitals": batch}, {"vitals": mask})
    output.square().sum().backward()
    assert output.isfinite().all()
    there = mask[..., None].expand_as(values) & batch.get("present", torch.tensor(True))
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert not values.grad[~there].any()
    assert (values.grad[there] != 0).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_series_without_any_value_reads_as_an_absent_one() -> None:
    model = model_of(time_series()).eval()
    batch, mask = pad([some_series(4), some_series(4)])
    absent = model({"vitals": batch}, {"vitals": torch.tensor([True, False])})
    batch["present"][1] = False
    torch.testing.assert_close(model({"vitals": batch}, {"vitals": mask}), absent, rtol=0, atol=0)


# ---- precision and whole models


@pytest.mark.parametrize("table", [False, True])
def test_bfloat16_autocast_leaves_times_in_float32(table: bool) -> None:
    adapter, batch = time_series(table=table), single(some_series(50, present=False))
    expected = adapter(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = adapter(batch)
    for part, other in zip(tokens.parts, expected.parts, strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, other)
    if not table:
        coarse = adapter.to(torch.bfloat16)({**batch, "values": batch["values"].to(torch.bfloat16)})
        assert torch.equal(coarse.parts[2], expected.parts[2])
        assert coarse.parts[2].dtype == torch.float32


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("step_seconds", [None, 60.0])
def test_dense_equals_factored(present: bool, step_seconds: float | None) -> None:
    batch, mask = pad([some_series(5, present=present), some_series(9, present=present)])
    batch["values"] = batch["values"].double()
    if step_seconds is not None:
        del batch["times"]
    outputs = []
    for attention in ("dense", "factored"):
        model = model_of(time_series(step_seconds=step_seconds), attention=attention).double()  # type: ignore[arg-type]
        outputs.append(model({"vitals": batch}, {"vitals": mask}))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("table", [False, True])
def test_a_model_learns_and_takes_longer_series(table: bool) -> None:
    model = model_of(time_series(table=table))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch, mask = pad([some_series(length) for length in (5, 9, 7)])
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(model({"vitals": batch}, {"vitals": mask}), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model({"vitals": single(some_series(300))}).isfinite().all()


# ---- errors


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_times_that_are_no_numbers_are_named(wrong: float) -> None:
    batch, mask = pad([some_series(6), some_series(6)])
    batch["times"][1, 2] = wrong
    with pytest.raises(ValueError, match=rf"TimeSeries: sample 1, step 2: its time, {wrong}, is not finite.*mask the step"):
        time_series()(batch)
    mask[1, 2] = False
    time_series()(batch, mask)


def test_times_that_do_not_grow_are_named() -> None:
    for times, message in [
        ([0.0, 5.0, 4.5, 9.0], r"sample 0, step 2: its time, 4.5, is not later than 5.0, .*Sort the steps by time"),
        ([0.0, 5.0, 5.0, 9.0], r"step 2: its time, 5.0, is not later than 5.0, .*merge steps with equal times"),
        ([0.0, 7.0, float("nan"), 6.5], r"step 3: its time, 6.5, is not later than 7.0, the time of an earlier step"),
    ]:
        batch = {"values": torch.zeros(1, 4, 3), "times": torch.tensor([times], dtype=torch.float64)}
        mask = ~batch["times"].isnan()
        with pytest.raises(ValueError, match=message):
            time_series()(batch, mask)
    mask = torch.tensor([[True, False, True, True]])
    batch["times"][0, 2] = 3.0
    time_series()(batch, mask)


def test_float32_times_of_a_clock_are_found_out() -> None:
    times = YEAR_2026 + torch.arange(4, dtype=torch.float64)[None]
    with pytest.raises(ValueError, match="step 1: its time, .* is not later"):
        time_series()({"values": torch.zeros(1, 4, 3), "times": times.float()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(2, 3, 4)}, r"values \(batch, steps, 3\), got shape \(2, 3, 4\).*transpose"),
        ({"values": torch.zeros(4, 3)}, r"got shape \(4, 3\)"),
        ({"values": torch.zeros(2, 0, 3)}, r"got shape \(2, 0, 3\).*Leave an absent series' key out"),
        ({"times": torch.zeros(4, dtype=torch.float64)}, r"expected times \(2, 4\), one per step, got \(4,\)"),
        ({"present": torch.ones(2, 4) > 0}, r"present shaped like values, \(2, 4, 3\), got \(2, 4\)"),
        ({"time": torch.zeros(2, 4)}, r"expected the keys values, times and present.*got \['time', 'times', 'values'\]"),
        ({"values": None}, r"expected the keys values.*got \['times'\]"),
        ({"times": None}, r"has no times, and the adapter no step_seconds"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_keys_and_shapes_are_named(changes: dict[str, Tensor | None], message: str) -> None:
    batch = {"values": torch.zeros(2, 4, 3), "times": torch.arange(4, dtype=torch.float64).expand(2, 4), **changes}
    with pytest.raises(ValueError, match=message):
        time_series()({key: x for key, x in batch.items() if x is not None})


@pytest.mark.usefixtures("unchecked")
def test_wrong_types_and_masks_are_named() -> None:
    batch = {"values": torch.zeros(2, 4, 3), "times": torch.arange(4, dtype=torch.float64).expand(2, 4)}
    adapter = time_series()
    for changes, message in [
        ({"values": torch.zeros(2, 4, 3, dtype=torch.int64)}, "values in floating point, got torch.int64"),
        ({"times": torch.arange(4).expand(2, 4)}, r"float64 seconds, got torch.int64, which is too coarse.*double\(\)"),
        ({"times": batch["times"].bfloat16()}, "float64 seconds, got torch.bfloat16"),
        ({"present": torch.ones(2, 4, 3)}, r"present of type bool \(True = present\), got torch.float32"),
    ]:
        with pytest.raises(TypeError, match=message):
            adapter({**batch, **changes})
    with pytest.raises(TypeError, match="expected a dict of values, times.*got Tensor"):
        adapter(batch["values"])
    with pytest.raises(ValueError, match=r"TimeSeries mask: expected \(2,\).*or \(2, 4\).*got \(2, 4, 3\)"):
        adapter(batch, torch.ones(2, 4, 3, dtype=torch.bool))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_are_checked(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"TimeSeries\.duration_seconds: expected a positive number of seconds"):
        time_series(duration_seconds=seconds)
    with pytest.raises(ValueError, match=r"TimeSeries\.step_seconds: expected a positive number of seconds"):
        time_series(step_seconds=seconds)
    with pytest.raises(ValueError, match=r"TimeSeries\.num_values: expected at least 1"):
        TimeSeries(num_values=0, duration_seconds=1.0, position=Fourier(num_bands=1, resolution=(8,)))
