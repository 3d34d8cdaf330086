"""Drawn scenes: the flow against warping by hand, what is hidden, and the data modules made of them."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from perceiver.data import DataModule, Digits, MovingDigits, PlacedDigits
from perceiver.data.synthetic.scenes import (
    Layer,
    Pose,
    draw,
    flow_between,
    pixel_grid,
    random_background,
    topmost,
)
from perceiver.testing import check_data_module

SMALL: dict[str, Any] = {
    "size": (14, 16),
    "diameter": (7.0, 9.0),
    "batch_size": 4,
    "training_scenes": 10,
    "validation_scenes": 6,
    "test_scenes": 5,
}
KINDS = [MovingDigits, PlacedDigits]


def made(kind: Any, **arguments: Any) -> Any:
    module = DataModule.of(kind, source=Digits(), **{**SMALL, **arguments})
    module.prepare_data()
    module.setup("fit")
    return module


def square(column: float, row: float, *, label: int = 1) -> Layer:
    """Nine pixels wide and high, white."""
    return Layer(
        texture=torch.ones(3, 2, 2),
        glyph=torch.ones(8, 8),
        pose=Pose(centre=(column, row), scale=4.5),
        label=label,
    )


def background() -> Layer:
    return random_background(height=24, width=24, generator=torch.Generator().manual_seed(0))


def bilinear(image: Tensor, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`(C, H, W)` read between its pixels, by hand."""
    x = image.numpy()
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    right, bottom = np.minimum(left + 1, x.shape[2] - 1), np.minimum(top + 1, x.shape[1] - 1)
    a, b = columns - left, rows - top
    upper = (1 - a) * x[:, top, left] + a * x[:, top, right]
    lower = (1 - a) * x[:, bottom, left] + a * x[:, bottom, right]
    return (1 - b) * upper + b * lower


def test_the_second_frame_read_where_the_flow_points_is_the_first() -> None:
    """Over whole scenes, turned and enlarged layers included; and not where it points without the flow."""
    module = made(MovingDigits, size=(32, 32), diameter=(12.0, 16.0))
    errors, still = [], []
    for scene in islice(module.source.read_training()[1], 6):
        first, second = scene.inputs["frames"].unbind(dim=1)
        flow, seen = scene.target.numpy(), scene.target_mask.numpy()
        grid = pixel_grid(32, 32).numpy()
        columns, rows = (np.clip(grid[..., axis] + flow[axis], 0, 31) for axis in (0, 1))
        errors.append(np.abs(bilinear(second, columns, rows) - first.numpy())[:, seen].mean())
        still.append(np.abs(second.numpy() - first.numpy())[:, seen].mean())
    assert np.mean(errors) < 0.02
    assert np.mean(still) > 4 * np.mean(errors)


def test_flow_of_a_turned_layer_is_its_formula() -> None:
    before = square(12.0, 11.0)
    after = replace(before, pose=before.pose.moved(shift=(2.0, -1.0), angle=math.radians(90), zoom=1.5))
    still = background()
    flow, _ = flow_between([still, before], [still, after], height=24, width=24)
    # A quarter turn takes what is right of the centre below it.
    assert flow[:, 11, 15].tolist() == pytest.approx([2.0 - 3.0, -1.0 + 1.5 * 3.0], abs=1e-5)
    assert flow[:, 14, 12].tolist() == pytest.approx([2.0 - 1.5 * 3.0, -1.0 - 3.0], abs=1e-5)
    assert bool((flow[:, topmost([still, before], pixel_grid(24, 24)) == 0].abs() < 1e-5).all())


def test_what_is_covered_or_outside_is_not_seen() -> None:
    still, before = background(), square(8.0, 8.0)
    after = replace(before, pose=before.pose.moved(shift=(9.0, 0.0)))
    flow, seen = flow_between([still, before], [still, after], height=24, width=24)
    assert bool(seen[4:13, 4:13].all()), "the square itself is seen in both"
    assert not bool(seen[4:13, 13:22].any()), "it covers what was right of it"
    assert bool(seen[13:].all())
    gone = replace(before, pose=before.pose.moved(shift=(0.0, -6.0)))
    _, seen = flow_between([still, before], [still, gone], height=24, width=24)
    assert not bool(seen[4:6, 4:13].any()), "rows 4 and 5 have left the picture"
    assert bool(seen[6:13, 4:13].all())
    assert flow.shape == (2, 24, 24)


def test_classes_are_those_of_the_topmost_layer() -> None:
    layers = [background(), square(8.0, 8.0, label=4), square(12.0, 8.0, label=7)]
    picture = draw(layers, height=24, width=24)
    assert picture.top[8, 4] == 1
    assert picture.top[8, 10] == 2
    assert picture.top[20, 20] == 0
    assert bool((picture.pixels[:, 8, 4:17] > 0.999).all())


def test_placed_digits_are_the_digits() -> None:
    """Ink of a single digit that fills the picture, at its own place."""
    module = made(PlacedDigits, digits=(1, 1), size=(14, 14), diameter=(13.0, 13.0))
    for scene in islice(module.source.read_training()[1], 5):
        classes = scene.target
        found = classes[classes != 10].unique()
        assert len(found) == 1
        light = scene.inputs["image"].mean(dim=0)
        assert light[classes != 10].mean() > light[classes == 10].mean() + 0.2
        assert 0.05 < float((classes != 10).float().mean()) < 0.7
    counts = module.spec["target"]["counts"]
    assert sum(counts) == 128 * 14 * 14
    assert min(counts) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_kit(kind: Any) -> None:
    check_data_module(lambda: DataModule.of(kind, source=Digits(), **SMALL))


@pytest.mark.parametrize("kind", KINDS)
def test_training_scenes_are_new_in_every_epoch_and_follow_from_the_place_in_the_data(kind: Any) -> None:
    module = made(kind)
    torch.manual_seed(3)
    loader = module.train_dataloader()
    epochs = [list(loader), list(loader)]
    assert sorted(one for batch in epochs[0] for one in batch.ids) == sorted(one for batch in epochs[1] for one in batch.ids)
    name = module.source.modality
    first, second = (
        {one: x for batch in epoch for one, x in zip(batch.ids, batch.inputs[name], strict=True)} for epoch in epochs
    )
    assert not any(torch.equal(first[one], second[one]) for one in first)
    # Continued in the middle of an epoch, whatever was drawn before.
    torch.manual_seed(3)
    again = made(kind).train_dataloader()
    torch.rand(7)
    again.load_state_dict({"epoch": 0, "batches": 1, "samples": 4})
    rest = list(again)
    assert len(rest) == len(epochs[0]) - 1
    for one, other in zip(rest, epochs[0][1:], strict=True):
        assert torch.equal(one.inputs[name], other.inputs[name])
        assert torch.equal(one.target, other.target)


def test_digits_of_the_splits_are_those_of_the_source() -> None:
    module = made(PlacedDigits)
    module.setup("test")
    images = [module.split(split).glyphs.images for split in ("train", "val", "test")]
    numbers = [set(one.numbers.tolist()) for one in images]
    assert [len(one) for one in numbers] == [1257, 180, 360]
    assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (MovingDigits, {"size": [32]}, r"data\.size: expected \[height, width\]"),
        (MovingDigits, {"diameter": (9.0, 7.0)}, r"data\.diameter: expected \[minimum, maximum\]"),
        (MovingDigits, {"digits": (2, 1)}, r"data\.digits: expected \[minimum, maximum\]"),
        (MovingDigits, {"shift": 0.0, "background_shift": 0.0}, r"background_shift\s+above 0"),
        (PlacedDigits, {"training_scenes": 0}, r"data\.training_scenes: expected 1 or more, got 0"),
        (PlacedDigits, {"scene_seed": -1}, r"data\.scene_seed: expected 0 or more"),
    ],
)
def test_scenes_that_cannot_be_drawn(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataModule.of(kind, source=Digits(), **arguments)
