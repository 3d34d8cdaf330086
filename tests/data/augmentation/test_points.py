"""Augmentation of point sets: what each leaves unchanged, own parameters for every set, limits, masks."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perceiver.data.augmentation.points import (
    RandomJitter,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
    RandomTranslation,
)

ALL: list[Callable[[], nn.Module]] = [
    lambda: RandomJitter(std=0.1),
    lambda: RandomScale(scale=(0.5, 2)),
    lambda: RandomScale(scale=(0.5, 2), per_axis=True),
    lambda: RandomScale(scale=(0.5, 2), per_point=True),
    lambda: RandomTranslation(distance=0.5),
    lambda: RandomRotation(degrees=180),
    lambda: RandomRotation(degrees=180, axis=1),
    lambda: RandomPointDropout(rate=(0.1, 0.9)),
]
KEEPING = ALL[:-1]


@pytest.mark.parametrize("make", ALL)
def test_sets_differ_and_runs_repeat(make: Callable[[], nn.Module]) -> None:
    augment, x = make(), torch.randn(1, 50, 5).expand(16, 50, 5)
    torch.manual_seed(3)
    first, valid = augment(x, None)
    torch.manual_seed(3)
    again, _ = augment(x, None)
    assert torch.equal(first, again)
    seen = first if valid is None else torch.where(valid[..., None], first, 0.0)
    assert len({tuple(one.flatten().tolist()) for one in seen}) == 16


@pytest.mark.parametrize("make", KEEPING)
def test_features_and_masks_are_left_alone(make: Callable[[], nn.Module]) -> None:
    x, mask = torch.randn(3, 20, 5), torch.rand(3, 20) > 0.5
    before = x.clone()
    y, valid = make()(x, mask)
    assert torch.equal(x, before)
    assert torch.equal(y[..., 3:], x[..., 3:])
    assert not torch.equal(y[..., :3], x[..., :3])
    assert valid is mask
    assert make()(x, None)[1] is None


@pytest.mark.parametrize("make", ALL)
def test_masked_points_do_not_reach_valid_ones(make: Callable[[], nn.Module]) -> None:
    x, mask = torch.randn(3, 20, 3), torch.rand(3, 20) > 0.5
    x[~mask] = float("nan")
    y, valid = make()(x, mask)
    assert y[valid].isfinite().all()


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x)


@pytest.mark.parametrize("axes", [2, 3])
def test_rotations_keep_distances_and_orientation(axes: int) -> None:
    rotation = RandomRotation(degrees=180, num_coordinates=axes)
    x = torch.randn(64, 10, axes, dtype=torch.float64)
    y, _ = rotation(x, None)
    torch.testing.assert_close(distances(y), distances(x))
    matrices = rotation.draw(x)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(axes, dtype=torch.float64).expand(64, -1, -1))


def test_rotation_about_an_axis_turns_the_others_up_to_the_angle() -> None:
    for axis in range(3):
        matrices = RandomRotation(degrees=30, axis=axis).draw(torch.zeros(500, 1, 3))
        unit = torch.eye(3)[axis]
        torch.testing.assert_close(matrices @ unit, unit.expand(500, 3))
        angles = torch.acos(((matrices.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
        assert angles.max() <= math.radians(30) + 1e-3
        assert angles.max() > math.radians(28)
        following = torch.eye(3)[(axis + 1) % 3]
        turned = matrices @ following
        assert (turned[:, (axis + 2) % 3] > 0).any()  # both ways round
        assert (turned[:, (axis + 2) % 3] < 0).any()


def test_rotation_in_the_plane_turns_by_the_angle() -> None:
    matrices = RandomRotation(degrees=90, num_coordinates=2).draw(torch.zeros(1000, 1, 2))
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0])
    assert angles.abs().max() <= math.pi / 2 + 1e-5
    assert angles.min() < -1.5
    assert angles.max() > 1.5


def test_axes_of_free_rotations_lie_all_around() -> None:
    matrices = RandomRotation(degrees=90).draw(torch.zeros(3000, 1, 3, dtype=torch.float64))
    skew = torch.stack(
        [matrices[:, 2, 1] - matrices[:, 1, 2], matrices[:, 0, 2] - matrices[:, 2, 0], matrices[:, 1, 0] - matrices[:, 0, 1]]
    )
    directions = skew / skew.norm(dim=0)
    assert directions.mean(dim=1).abs().max() < 0.05
    torch.testing.assert_close(directions @ directions.T / 3000, torch.eye(3, dtype=torch.float64) / 3, atol=0.03, rtol=0)


def test_scales_keep_to_their_range() -> None:
    x = torch.ones(800, 7, 3)
    for options, shape in (({}, (800, 1, 1)), ({"per_axis": True}, (800, 1, 3)), ({"per_point": True}, (800, 7, 1))):
        factor, _ = RandomScale(scale=(0.5, 1.5), **options)(x, None)
        assert 0.5 <= factor.min() < 0.51
        assert 1.49 < factor.max() <= 1.5
        distinct = factor[0].unique().numel()
        assert distinct == shape[1] * shape[2] or (options == {"per_point": True} and distinct == 7)


def test_jitter_has_its_deviation_and_limit() -> None:
    x = torch.zeros(50, 200, 3)
    step, _ = RandomJitter(std=0.2)(x, None)
    assert step.std().item() == pytest.approx(0.2, rel=0.02)
    step, _ = RandomJitter(std=0.2, limit=0.1)(x, None)
    assert step.abs().max().item() == pytest.approx(0.1)


def test_translation_moves_sets_as_a_whole() -> None:
    x = torch.randn(500, 4, 3)
    step = RandomTranslation(distance=0.3)(x, None)[0] - x
    torch.testing.assert_close(step, step[:, :1].expand_as(step), atol=1e-6, rtol=0)
    assert step.abs().max() <= 0.3 + 1e-5
    assert step[:, 0].amin(0).max() < -0.28
    assert step[:, 0].amax(0).min() > 0.28


def test_dropout_leaves_out_at_its_rate() -> None:
    x = torch.arange(400.0).view(1, 400, 1).expand(200, 400, 1)
    y, valid = RandomPointDropout(rate=(0.25, 0.25))(x, None)
    assert valid.float().sum(1).mean().item() == pytest.approx(300, rel=0.02)
    assert y.shape[1] == valid.sum(1).max()
    for row in range(200):
        kept = y[row, valid[row], 0]
        assert (kept.diff() > 0).all()  # none twice
    rates = 1 - RandomPointDropout(rate=(0, 1))(x, None)[1].sum(1) / 400
    assert rates.min() < 0.1
    assert rates.max() > 0.9


def test_dropout_leaves_one_valid_point_and_absent_sets_absent() -> None:
    x = torch.randn(4, 6, 3)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, 5] = mask[1, :3] = mask[2] = True
    y, valid = RandomPointDropout(rate=(1, 1))(x, mask)
    assert valid.sum(1).tolist() == [1, 1, 1, 0]
    assert torch.equal(y[0, valid[0]], x[0, 5:])
    assert (y[1, valid[1]] == x[1, :3]).all(1).any()
    presence = torch.tensor([True, False, True, True])
    assert RandomPointDropout(rate=(0, 0))(x, presence)[1].any(1).tolist() == presence.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomJitter(std=-1.0), r"RandomJitter\.std: expected 0 or more, got -1"),
        (lambda: RandomJitter(std=1.0, limit=-1.0), r"RandomJitter\.limit"),
        (lambda: RandomScale(scale=(0, 1)), r"RandomScale\.scale: expected 0 < smallest <= largest, got \[0, 1\]"),
        (lambda: RandomScale(scale=(2, 1)), r"RandomScale\.scale"),
        (lambda: RandomTranslation(distance=-1), r"RandomTranslation\.distance"),
        (lambda: RandomTranslation(distance=1, num_coordinates=0), r"RandomTranslation\.num_coordinates"),
        (lambda: RandomRotation(degrees=190), r"RandomRotation\.degrees: expected 0 to 180, got 190"),
        (lambda: RandomRotation(degrees=9, axis=3), r"RandomRotation\.axis"),
        (lambda: RandomRotation(degrees=9, axis=1, num_coordinates=2), r"RandomRotation\.axis: .*null in the plane"),
        (lambda: RandomRotation(degrees=9, num_coordinates=4), r"RandomRotation\.num_coordinates: expected 2 or 3"),
        (lambda: RandomPointDropout(rate=(0.5, 1.5)), r"RandomPointDropout\.rate"),
        (lambda: RandomJitter(std=1)(torch.zeros(1, 4, 2), None), r"RandomJitter\.num_coordinates: expected at most 2"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
