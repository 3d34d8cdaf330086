"""Corruption of images: how much is hidden and where, how strong noise is, one image and a batch."""

from typing import Any

import pytest
import torch

from perceiver.data.augmentation.corruption import RandomOcclusion, RandomPixelNoise


def test_a_rectangle_of_the_size_asked_for_is_hidden() -> None:
    hidden = RandomOcclusion(side=[0.5, 0.5])(torch.ones(50, 3, 28, 20)) == 0
    assert (hidden.sum(dim=(1, 2, 3)) == 3 * 14 * 10).all()
    assert torch.equal(hidden[:, 0], hidden[:, 2])
    for image in hidden[:, 0]:
        rows, columns = (image.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        assert (len(rows), len(columns)) == (14, 10)
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "one rectangle"


def test_every_place_is_as_likely() -> None:
    hidden = RandomOcclusion(side=[0.5, 0.5], fill=0.25)(torch.ones(20_000, 1, 4, 4)) == 0.25
    first_row, first_column = (hidden[:, 0].any(dim=axis).float().argmax(dim=1) for axis in (2, 1))
    places = (3 * first_row + first_column).bincount(minlength=9) / 20_000
    torch.testing.assert_close(places, torch.full((9,), 1 / 9), atol=0.01, rtol=0)


def test_sizes_lie_between_the_limits() -> None:
    shares = (RandomOcclusion(side=[0.25, 0.75])(torch.ones(500, 1, 20, 20)) == 0).sum(dim=(1, 2, 3)).sqrt()
    assert (shares.min(), shares.max()) == (5, 15)
    image = torch.rand(1, 8, 8)
    assert torch.equal(RandomOcclusion(side=[0, 0])(image), image)
    assert RandomOcclusion(side=[1, 1])(image).eq(0).all()


def test_noise_has_the_strength_asked_for() -> None:
    images = torch.full((200, 1, 28, 28), 0.5)
    noisy = RandomPixelNoise(std=[0.05, 0.15])(images)
    own = (noisy - images).flatten(1).std(dim=1)
    assert own.min() > 0.04
    assert own.max() < 0.17
    assert own.max() - own.min() > 0.08, "every image has a level of its own"
    assert (noisy - images).mean().abs() < 1e-3


def test_noise_is_clipped_to_the_range_of_images() -> None:
    noisy = RandomPixelNoise(std=[3, 3])(torch.rand(4, 1, 28, 28))
    assert (noisy.min(), noisy.max()) == (0, 1)


@pytest.mark.parametrize("transform", [RandomOcclusion(side=[0.3, 0.6]), RandomPixelNoise(std=[0.1, 0.2])])
def test_one_image_or_a_batch(transform: Any) -> None:
    assert transform(torch.rand(3, 9, 7)).shape == (3, 9, 7)
    batch = torch.rand(1, 3, 9, 7).expand(6, -1, -1, -1)
    before = batch.clone()
    changed = transform(batch)
    assert changed.shape == batch.shape
    assert len(changed.flatten(1).unique(dim=0)) == 6, "parameters of its own for every image"
    assert torch.equal(batch, before)
    assert transform.draws_per_image


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomOcclusion(side=[0.6, 0.5]), r"RandomOcclusion\.side: expected .* got \[0\.6, 0\.5\]"),
        (lambda: RandomOcclusion(side=[0.0, 1.5]), r"RandomOcclusion\.side"),
        (lambda: RandomOcclusion(side=[0.0, 0.5], fill=2.0), r"RandomOcclusion\.fill: expected 0 to 1, got 2"),
        (lambda: RandomPixelNoise(std=[0.5]), r"RandomPixelNoise\.std: expected .* got \[0\.5\]"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
