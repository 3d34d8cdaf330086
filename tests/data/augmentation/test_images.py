"""RandomAffine against torchvision's affine transform, and that every image gets parameters of its own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode, v2

from perceiver.data.augmentation.images import Chain, RandomAffine, RandomShiftFlip, inverse_affine


@pytest.mark.parametrize(
    ("angle", "shift", "scale", "shear"),
    [(20, (0, 0), 1, 0), (0, (2, -3), 1, 0), (0, (0, 0), 1.3, 0), (0, (0, 0), 1, 15), (-35, (3, 1), 0.8, -10)],
)
def test_inverse_affine_matches_torchvision(angle: float, shift: tuple[int, int], scale: float, shear: float) -> None:
    height, width = 20, 32
    image = torch.rand(1, 2, height, width)
    expected = v2.functional.affine(image, angle, list(shift), scale, [shear, 0], InterpolationMode.BILINEAR, fill=[0.0])
    theta = inverse_affine(
        angle=torch.tensor([math.radians(angle)]),
        shift=torch.tensor([[shift[0] / width], [shift[1] / height]]),
        scale=torch.tensor([float(scale)]),
        shear=torch.tensor([math.radians(shear)]),
        aspect=height / width,
    )
    ours = F.grid_sample(image, F.affine_grid(theta, [1, 2, height, width], align_corners=False), align_corners=False)
    # torchvision multiplies bilinear borders by a sampled mask: compare where the input covers the output fully.
    inside = v2.functional.affine(
        torch.ones_like(image), angle, list(shift), scale, [shear, 0], InterpolationMode.BILINEAR, fill=[0.0]
    )
    inside = F.avg_pool2d(inside, 3, stride=1, padding=1, count_include_pad=False) > 1 - 1e-6
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(ours[inside], expected[inside], atol=1e-5, rtol=0)


def test_every_image_has_its_own_parameters() -> None:
    augment = RandomAffine(degrees=30, translate=(0.2, 0.2), scale=(0.8, 1.2), shear=10)
    augmented = augment(torch.rand(1, 1, 9, 9).expand(16, 1, 9, 9))
    assert augmented.shape == (16, 1, 9, 9)
    assert len({tuple(image.flatten().tolist()) for image in augmented}) == 16
    assert augment(torch.rand(3, 9, 9)).shape == (3, 9, 9)


def test_parameters_keep_to_their_ranges() -> None:
    augment = RandomAffine(degrees=90, translate=(0.25, 0.5))
    theta = augment.draw(torch.zeros(1000, 1, 8, 8))
    assert torch.atan2(-theta[:, 1, 0], theta[:, 0, 0]).abs().max() <= math.pi / 2 + 1e-5
    offset = torch.linalg.solve(-theta[:, :, :2], theta[:, :, 2:])[..., 0] / 2
    assert (offset.abs() <= torch.tensor([0.25, 0.5]) + 1e-5).all()
    assert offset.abs().amax(0)[1] > 0.45
    scales = RandomAffine(scale=(0.5, 2.0)).draw(torch.zeros(1000, 1, 8, 8))[:, 0, 0].reciprocal()
    assert 0.5 - 1e-5 <= scales.min() < 0.6
    assert 1.9 < scales.max() <= 2.0 + 1e-5


def test_identity_by_default() -> None:
    images = torch.rand(4, 3, 6, 10)
    torch.testing.assert_close(RandomAffine()(images), images)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("degrees", -1),
        ("degrees", 181),
        ("translate", (0.1,)),
        ("translate", (0, 2)),
        ("scale", (0, 1)),
        ("scale", (2, 1)),
        ("shear", 90),
    ],
)
def test_errors_name_the_argument(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"RandomAffine\.{argument}: expected"):
        RandomAffine(**{argument: value})  # type: ignore[arg-type]


def test_shifts_and_flips_are_crops_of_the_padded_image() -> None:
    """Every result is one of the crops that padding, cropping and flipping can give, and all of them occur."""
    image = torch.rand(2, 4, 5)
    possible = {}
    for top in range(3):
        for left in range(3):
            crop = v2.functional.crop(v2.functional.pad(image, [1]), top, left, 4, 5)
            possible[tuple(crop.flatten().tolist())] = (top, left, False)
            possible[tuple(crop.flip(-1).flatten().tolist())] = (top, left, True)
    assert len(possible) == 18
    augmented = RandomShiftFlip(shift=1)(image.expand(600, 2, 4, 5))
    counts = dict.fromkeys(possible.values(), 0)
    for result in augmented:
        counts[possible[tuple(result.flatten().tolist())]] += 1
    assert min(counts.values()) > 10
    assert RandomShiftFlip(shift=1)(image).shape == image.shape


def test_no_shift_and_no_flip_change_nothing() -> None:
    images = torch.rand(8, 1, 3, 3)
    assert torch.equal(RandomShiftFlip(shift=0, flip=False)(images), images)
    with pytest.raises(ValueError, match=r"RandomShiftFlip\.shift: expected"):
        RandomShiftFlip(shift=-1)


def test_a_chain_hands_batches_and_single_images_on() -> None:
    seen: list[tuple[int, ...]] = []

    def single(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape))
        return image + 1

    chain = Chain(transforms=[RandomShiftFlip(shift=0, flip=False), single, RandomAffine()])
    images = torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(chain(images), images + 1)
    assert seen == [(1, 4, 4)] * 3
    with pytest.raises(ValueError, match=r"Chain\.transforms: expected at least one"):
        Chain(transforms=[])


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandAugment(num_ops=4, magnitude=5),
        v2.RandomCrop([9, 7], padding=2),
        v2.RandomResizedCrop([9, 7], scale=(0.5, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.RandomErasing(p=0.9),
        v2.ColorJitter(brightness=0.3),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_torchvision_s_transforms_fit_in(transform: v2.Transform) -> None:
    """Images are float in [0, 1]; not all of torchvision's transforms have always taken those."""
    images = torch.rand(1, 3, 9, 7).expand(24, 3, 9, 7)
    augmented = Chain(transforms=[transform])(images)
    assert augmented.shape == images.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in augmented}) > 1


def test_outside_is_filled_with_the_value_asked_for() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 12, 12)
    torch.manual_seed(1)
    black = RandomAffine(translate=(0.4, 0.4))(1 - images)
    torch.manual_seed(1)
    white = RandomAffine(translate=(0.4, 0.4), fill=1.0)(images)
    torch.testing.assert_close(white, 1 - black)
    with pytest.raises(ValueError, match=r"RandomAffine\.fill: expected 0 to 1, got 2"):
        RandomAffine(fill=2)
