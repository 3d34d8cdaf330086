"""Positions: Fourier features against float64 and transformers, learned tables against interpolation, coordinates."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver.tokens.positions import (
    Fourier,
    LearnedTable,
    PositionEncoding,
    Projected,
    grid_coordinates,
    index_coordinates,
    relative_time_coordinates,
    time_coordinates,
)
from perceiver.tokens.tokens import Tokens


def by_hand(coordinates: np.ndarray, num_bands: int, resolution: float) -> np.ndarray:
    """(n,) -> (n, 2 * bands + 1): coordinate, sines, cosines, in float64."""
    x = coordinates.astype(np.float64)[:, None]
    phase = np.pi * np.linspace(1, resolution / 2, num_bands) * x
    return np.concatenate([x, np.sin(phase), np.cos(phase)], axis=-1)


@settings(max_examples=40)
@given(
    grid=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    num_bands=st.integers(0, 12),
    resolution=st.floats(1, 300),
)
def test_fourier_features_of_a_grid(grid: list[int], num_bands: int, resolution: float) -> None:
    fourier = Fourier(num_bands=num_bands, resolution=[resolution + axis for axis in range(len(grid))])
    parts = fourier(grid_coordinates(grid))
    assert sum(part.shape[-1] for part in parts) == fourier.channels == len(grid) * (2 * num_bands + 1)
    for axis, (size, part) in enumerate(zip(grid, parts, strict=True)):
        assert part.shape == (1, *(size if other == axis else 1 for other in range(len(grid))), 2 * num_bands + 1)
        expected = by_hand(np.linspace(-1, 1, size), num_bands, resolution + axis)
        np.testing.assert_allclose(part.reshape(size, -1).numpy(), expected, atol=2e-6 + 6e-7 * resolution)


def test_fourier_features_of_points_are_per_coordinate() -> None:
    fourier = Fourier(num_bands=5, resolution=(8.0, 16.0, 32.0))
    points = torch.rand(2, 9, 3) * 2 - 1
    (part,) = fourier((points,))
    for k, resolution in enumerate((8.0, 16.0, 32.0)):
        expected = by_hand(points[1, :, k].numpy(), 5, resolution)
        np.testing.assert_allclose(part[1, :, 11 * k : 11 * (k + 1)].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("grid", "num_bands"), [((224, 224), 64), ((12, 20), 7), ((50,), 16), ((4, 6, 5), 3)])
def test_same_features_as_transformers(grid: tuple[int, ...], num_bands: int) -> None:
    perceiver = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    reference = perceiver.PerceiverFourierPositionEncoding(num_bands=num_bands, max_resolution=grid)
    theirs = reference(index_dims=grid, batch_size=1, device=torch.device("cpu"), dtype=torch.float32)
    fourier = Fourier(num_bands=num_bands, resolution=grid)
    ours = Tokens(parts=fourier(grid_coordinates(grid))).dense()
    assert reference.output_size() == fourier.channels
    # Theirs: all coordinates, all sines, all cosines; ours axis by axis.
    rank = len(grid)
    order = []
    for axis in range(rank):
        order.append(axis)
        for function in range(2):
            start = rank + (function * rank + axis) * num_bands
            order.extend(range(start, start + num_bands))
    torch.testing.assert_close(ours, theirs[..., order], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fourier_features_stay_float32(dtype: torch.dtype) -> None:
    fourier = Fourier(num_bands=64, resolution=(224,))
    coordinates = grid_coordinates((224,))
    (expected,) = fourier(coordinates)
    (cast,) = fourier.to(dtype)(coordinates)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (autocast,) = fourier(grid_coordinates((224,)))
    assert autocast.dtype == torch.float32
    assert torch.equal(autocast, expected)


def test_fourier_features_do_not_depend_on_the_default_device() -> None:
    fourier, coordinates = Fourier(num_bands=3, resolution=(8,)), grid_coordinates((8,))
    with torch.device("meta"):
        frequencies = fourier.frequencies(coordinates[0].device)
    assert torch.equal(frequencies, fourier.frequencies())


def test_fourier_has_neither_parameters_nor_state() -> None:
    assert Fourier(num_bands=4, resolution=(8,)).state_dict() == {}


def test_encodings_satisfy_the_protocol() -> None:
    assert isinstance(Fourier(num_bands=1, resolution=(2,)), PositionEncoding)
    assert isinstance(LearnedTable(grid=(2,), channels=1), PositionEncoding)


@pytest.mark.parametrize("resolution", [[], [0.0], [8.0, -1.0], [float("nan")], [float("inf")], [2.0**40]])
def test_bad_resolutions(resolution: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Fourier\.resolution"):
        Fourier(num_bands=4, resolution=resolution)


def test_other_fourier_errors() -> None:
    with pytest.raises(ValueError, match=r"num_bands.*-1"):
        Fourier(num_bands=-1, resolution=(8,))
    with pytest.raises(ValueError, match="names 2 coordinates, but got 3"):
        Fourier(num_bands=4, resolution=(8, 8))(grid_coordinates((4, 4, 4)))


@settings(max_examples=60)
@given(size=st.integers(1, 60_000))
def test_a_sample_of_the_reference_size_reads_the_table_as_it_is(size: int) -> None:
    table = LearnedTable(grid=(size,), channels=1)
    (alone,) = table(grid_coordinates((size,)))
    assert torch.equal(alone[0], table.table)
    mask = torch.zeros(2, size + 3, dtype=torch.bool)
    mask[0, :size] = mask[1, : max(size // 2, 1)] = True
    (padded,) = table(grid_coordinates((size + 3,), mask=mask))
    assert torch.equal(padded[0, :size], table.table)


@pytest.mark.parametrize("grid", [(5,), (4, 7), (3, 4, 2)])
def test_the_reference_grid_is_shared_by_the_batch(grid: tuple[int, ...]) -> None:
    table = LearnedTable(grid=grid, channels=3)
    (part,) = table(grid_coordinates(grid))
    assert torch.equal(part, table.table[None])
    assert part.data_ptr() == table.table.data_ptr(), "nothing is gathered"


@settings(max_examples=40)
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(2, 9)), min_size=1, max_size=3))
def test_other_sizes_are_interpolated(sizes: list[tuple[int, int]]) -> None:
    reference, grid = [size for size, _ in sizes], [size for _, size in sizes]
    table = LearnedTable(grid=reference, channels=2)
    (part,) = table(grid_coordinates(grid))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
    expected = F.interpolate(table.table.movedim(-1, 0)[None], size=grid, mode=mode, align_corners=True)
    torch.testing.assert_close(part, expected.movedim(1, -1), rtol=0, atol=2e-5)


def test_points_read_the_table_as_grid_sample_does() -> None:
    table = LearnedTable(grid=(6, 9), channels=4)
    points = torch.rand(2, 17, 2) * 2.4 - 1.2
    (part,) = table((points,))
    expected = F.grid_sample(
        table.table.movedim(-1, 0)[None].expand(2, -1, -1, -1),
        points.flip(-1)[:, :, None],
        align_corners=True,
        padding_mode="border",
    )
    torch.testing.assert_close(part, expected[..., 0].transpose(1, 2), rtol=0, atol=1e-5)


def test_coordinates_beyond_the_table_read_its_ends() -> None:
    table = LearnedTable(grid=(4,), channels=2)
    (part,) = table((torch.tensor([-9.0, -1.0, 1.0, 1.5, 40.0]).reshape(1, 5, 1),))
    assert torch.equal(part[0], table.table[[0, 0, 3, 3, 3]])


@pytest.mark.parametrize("grid", [(4, 3), (7, 5)])
def test_gradients_reach_the_table(grid: tuple[int, int]) -> None:
    table = LearnedTable(grid=(4, 3), channels=2).double()
    weights = torch.randn(1, *grid, 2, dtype=torch.float64)

    def read(values: Tensor) -> Tensor:
        (part,) = torch.func.functional_call(table, {"table": values}, (grid_coordinates(grid),))
        total: Tensor = (part * weights).sum()
        return total

    assert torch.autograd.gradcheck(read, (table.table,))


def test_a_compiled_table_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LearnedTable(grid=(4, 5), channels=3)
    (eager,) = table(grid_coordinates((4, 5)))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    (traced,) = table(grid_coordinates((4, 5)))
    assert torch.equal(traced, eager)


def test_table_starts_small() -> None:
    values = LearnedTable(grid=(100, 100), channels=10, std=0.5).table
    assert values.abs().max() <= 1.0
    assert 0.4 < values.std() < 0.5


def test_table_errors() -> None:
    for grid, channels in ([], 1), ([0], 1), ([3], 0):
        with pytest.raises(ValueError, match="positive grid sizes"):
            LearnedTable(grid=grid, channels=channels)
    with pytest.raises(ValueError, match="has 2 axes, but got 1"):
        LearnedTable(grid=(3, 3), channels=1)(grid_coordinates((3,)))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_coordinates_are_relative_to_the_own_size(sizes: list[tuple[int, int]], extra: tuple[int, int]) -> None:
    grid = tuple(max(size) + more for size, more in zip(zip(*sizes, strict=True), extra, strict=True))
    mask = torch.zeros(len(sizes), *grid, dtype=torch.bool)
    for row, (height, width) in enumerate(sizes):
        mask[row, :height, :width] = True
    padded = grid_coordinates(grid, mask=mask)
    assert [tuple(axis.shape) for axis in padded] == [(len(sizes), grid[0], 1, 1), (len(sizes), 1, grid[1], 1)]
    for row, size in enumerate(sizes):
        alone = grid_coordinates(size)
        for axis, length in enumerate(size):
            own, beyond = padded[axis][row].flatten().split([length, grid[axis] - length])
            assert torch.equal(own, alone[axis].flatten())
            np.testing.assert_allclose(own.numpy(), np.linspace(-1, 1, length), atol=2e-7)
            assert length == 1 or (beyond > 1).all()


def test_coordinates_have_the_digits_of_linspace() -> None:
    for length in range(1, 400):
        assert torch.equal(grid_coordinates((length,))[0].flatten(), torch.linspace(-1, 1, length)), length


def test_coordinates_of_absent_samples_are_finite() -> None:
    coordinates = grid_coordinates((3, 4), mask=torch.zeros(2, 3, 4, dtype=torch.bool))
    assert all(axis.isfinite().all() for axis in coordinates)


def test_coordinates_stay_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert all(axis.dtype == torch.float32 for axis in grid_coordinates((3, 4)))
        assert time_coordinates(3, step_seconds=0.1, duration_seconds=1.0).dtype == torch.float32
        assert all(part.dtype == torch.float32 for part in Fourier(num_bands=2, resolution=(4,))(grid_coordinates((4,))))
    finally:
        torch.set_default_dtype(torch.float32)


def test_times_are_absolute() -> None:
    step, duration, offset = 0.01, 10.0, 0.005
    times = time_coordinates(2000, step_seconds=step, duration_seconds=duration, offset_seconds=offset)
    expected = -1 + 2 * (np.arange(2000) * step + offset) / duration
    assert times.shape == (1, 2000, 1)
    assert np.array_equal(times[0, :, 0].numpy(), expected.astype(np.float32))
    assert times.max() > 2
    shorter = time_coordinates(70, step_seconds=step, duration_seconds=duration, offset_seconds=offset)
    assert torch.equal(shorter, times[:, :70])


def test_distant_times_keep_their_step() -> None:
    """An hour of milliseconds: in float32 seconds the step would be lost."""
    times = time_coordinates(3_600_000, step_seconds=0.001, duration_seconds=3600.0)[0, :, 0]
    steps = times.double().diff() * 1800
    assert (steps - 0.001).abs().max() < 2e-4


def test_given_times_are_relative_to_the_first_valid_one() -> None:
    times = torch.tensor(
        [[1.7e9, 1.7e9 + 0.25, 1.7e9 + 3.0], [5.0, float("nan"), 7.0], [0.0, 1.0, 2.0]], dtype=torch.float64
    )
    mask = torch.tensor([[True, True, True], [False, False, True], [False, False, False]])
    coordinates = relative_time_coordinates(times, mask=mask, duration_seconds=2.0)
    assert coordinates.dtype == torch.float32
    assert coordinates.tolist() == [[[-1.0], [-0.75], [2.0]], [[-1.0], [-1.0], [-1.0]], [[-1.0], [-1.0], [-1.0]]]
    both = relative_time_coordinates(times[[0, 2]], duration_seconds=2.0)
    assert both[1].flatten().tolist() == [-1.0, 0.0, 1.0]
    whole = relative_time_coordinates(times[:1], duration_seconds=2.0)
    assert torch.equal(whole, coordinates[:1])


def test_given_times_equal_those_of_even_steps() -> None:
    times = torch.arange(500, dtype=torch.float64)[None] * 0.01
    expected = time_coordinates(500, step_seconds=0.01, duration_seconds=3.0)
    assert torch.equal(relative_time_coordinates(times, duration_seconds=3.0), expected)


def test_places_in_a_sequence_do_not_depend_on_its_length() -> None:
    places = index_coordinates(30, reference_length=21)
    assert places.shape == (1, 30, 1)
    np.testing.assert_allclose(places[0, :21, 0].numpy(), np.linspace(-1, 1, 21), atol=1e-6)
    assert (places[0, 21:] > 1).all()
    assert torch.equal(index_coordinates(7, reference_length=21), places[:, :7])
    assert index_coordinates(2, reference_length=1).isfinite().all()


def test_rows_and_columns_are_independent() -> None:
    parts = Fourier(num_bands=3, resolution=(5, 7))(grid_coordinates((5, 7)))
    dense = Tokens(parts=parts).dense().reshape(5, 7, -1)
    for row, column in itertools.product(range(5), range(7)):
        assert torch.equal(dense[row, column, :7], parts[0][0, row, 0])
        assert torch.equal(dense[row, column, 7:], parts[1][0, 0, column])


def test_channels_in_the_order_of_the_published_code() -> None:
    """All coordinates, all sines, all cosines."""
    axes = grid_coordinates((3, 4))
    rows, columns = Fourier(num_bands=2, resolution=(8, 6))(axes)
    parts = Fourier(num_bands=2, resolution=(8, 6), by_coordinate=False)(axes)
    assert [part.shape[-1] for part in parts] == [1, 1, 2, 2, 2, 2]
    expected = [one.split([1, 2, 2], dim=-1) for one in (rows, columns)]
    torch.testing.assert_close(parts, tuple(one for alike in zip(*expected, strict=True) for one in alike))


def test_projected_positions() -> None:
    position = Projected(position=Fourier(num_bands=2, resolution=(8, 6)), channels=7)
    axes = grid_coordinates((3, 4))
    [part] = position(axes)
    whole = torch.cat([one.expand(1, 3, 4, -1) for one in position.position(axes)], dim=-1)
    torch.testing.assert_close(part, position.projection(whole))
    with pytest.raises(ValueError, match=r"Projected\.channels: .* got 0"):
        Projected(position=LearnedTable(grid=(3,), channels=2), channels=0)


def test_modules_show_their_settings() -> None:
    assert repr(Fourier(num_bands=2, resolution=(8, 6))) == "Fourier(num_bands=2, resolution=(8.0, 6.0))"
    assert repr(LearnedTable(grid=(3, 4), channels=5)) == "LearnedTable(grid=(3, 4), channels=5)"


def test_elements_of_a_large_table_keep_their_own_rows() -> None:
    """Float32 coordinates of 5,000 rows are off by more than a ten-thousandth of a row."""
    table = LearnedTable(grid=[5000], channels=1)
    with torch.no_grad():
        table.table.copy_(torch.arange(5000.0)[:, None] % 7)
    coordinates = index_coordinates(5000, reference_length=5000)[:, 1000:4000]
    [rows] = table((coordinates,))
    assert torch.equal(rows[0, :, 0], torch.arange(1000.0, 4000.0) % 7)
