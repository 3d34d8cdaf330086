"""Fields in tiles: one tile is direct evaluation, several cover everything, and seams blend."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from dense_cases import flowing
from torch import Tensor

from perceiver import flow_in_tiles
from perceiver.inference.tiling import over_tiles, tile_starts, tile_weights
from perceiver.targets.pixels import flow_target


def spec(height: int, width: int) -> dict[str, Any]:
    target = flow_target(flow=torch.full((1, 2, 3, 3), 4.0), mask=torch.ones(1, 3, 3, dtype=torch.bool), modality="frames")
    return {"modalities": {"frames": {"kind": "video", "shape": [1, 2, height, width]}}, "target": target}


def test_one_tile_is_the_model_itself() -> None:
    model = flowing(spec=spec(6, 7)).train()
    frames = torch.randn(2, 1, 2, 6, 7)
    with torch.no_grad():
        expected = 4.0 * model({"frames": frames}).movedim(-1, 1)
    torch.testing.assert_close(flow_in_tiles(model, frames, overlap=3), expected)
    torch.testing.assert_close(flow_in_tiles(model, frames, overlap=3, tile=[50, 60], scale=4.0), expected)
    assert model.training


def test_several_tiles_are_weighted_means_of_the_model() -> None:
    model = flowing(spec=spec(6, 7)).eval()
    frames = torch.randn(1, 1, 2, 9, 16)
    whole = flow_in_tiles(model, frames, overlap=2)
    assert whole.shape == (1, 2, 9, 16)
    total, count = np.zeros((2, 9, 16)), np.zeros((9, 16))
    for top in (0, 3):
        for left in (0, 5, 9):
            with torch.no_grad():
                part = 4.0 * model({"frames": frames[..., top : top + 6, left : left + 7]})[0].numpy()
            for row in range(6):
                for column in range(7):
                    weight = min(row + 1, 6 - row, column + 1, 7 - column)
                    total[:, top + row, left + column] += weight * part[row, column]
                    count[top + row, left + column] += weight
    np.testing.assert_allclose(whole[0].numpy(), total / count, rtol=1e-4, atol=1e-5)


def test_what_does_not_depend_on_the_tile_comes_out_as_it_is() -> None:
    x = torch.randn(2, 3, 41, 57)
    torch.testing.assert_close(over_tiles(lambda part: part[:, :2], x, tile=[16, 20], overlap=5), x[:, :2])


def test_seams_blend() -> None:
    """Each tile says a number of its own: from one to the next the field changes in many small steps."""
    values = iter(range(10))

    def compute(part: Tensor) -> Tensor:
        return torch.full((1, 1, *part.shape[-2:]), float(next(values)))

    field = over_tiles(compute, torch.zeros(1, 1, 40, 100), tile=[40, 60], overlap=20)[0, 0]
    row = field[20]
    assert row[0] == 0
    assert row[-1] == 1
    assert bool((row.diff() >= 0).all())
    assert float(row.diff().max()) < 0.11


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(5, 9, 2), (9, 9, 2), (10, 9, 2), (100, 9, 8), (436, 368, 20), (31, 10, 0)]
)
def test_tiles_cover_an_axis_and_overlap(size: int, tile: int, overlap: int) -> None:
    starts = tile_starts(size, tile=tile, overlap=overlap)
    covered = {pixel for start in starts for pixel in range(start, min(start + tile, size))}
    assert covered == set(range(size))
    assert starts[-1] + tile <= max(size, tile)
    assert all(0 < after - before <= tile - overlap for before, after in pairwise(starts))


def test_weights_fall_to_the_edges() -> None:
    assert tile_weights(3, 5).tolist() == [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": [6, 7], "overlap": 6}, r"tile, overlap: expected .* less than both, got \[6, 7\] and 6"),
        ({"tile": None}, r"tile: expected \[height, width\], because the model's spec lacks"),
        ({"tile": [6, 7], "scale": None}, r"scale: expected a number"),
    ],
)
def test_tiles_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_in_tiles(flowing(), torch.zeros(1, 1, 2, 9, 9), **{"overlap": 2, "scale": 1.0, **arguments})


def test_outputs_that_are_no_field() -> None:
    with pytest.raises(ValueError, match=r"compute: expected shape \(1, values, 4, 4\) for a tile, got \(1, 4\)"):
        over_tiles(lambda part: part[:, 0, 0], torch.zeros(1, 1, 9, 4), tile=[4, 4], overlap=1)
