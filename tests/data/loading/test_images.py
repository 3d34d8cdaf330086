"""Images in memory: the same values as preprocessing gives, batches, statistics, augmentation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from perceiver.data.loading.collation import PreparedCollate
from perceiver.data.loading.images import LabelledImages, image_spec, image_statistics, of_any_size
from perceiver.data.loading.transforms import by_modality
from perceiver.modalities.preprocess import preprocess
from perceiver.samples.batch import Batch

MODALITY = {"kind": "image", "shape": [2, 4, 5], "range": [0, 255], "mean": [0.4, 0.5], "std": [0.2, 0.3]}


def collate(augment: Any = None, **specs: Any) -> PreparedCollate:
    modalities = {"image": {**MODALITY, **specs}}
    transforms = by_modality(augment, specs=modalities, available=("image",), argument="data.augment")
    return PreparedCollate(modalities=modalities, augment=transforms)


def pixels_of(batch: Batch) -> Tensor:
    pixels = batch.inputs["image"]
    assert isinstance(pixels, Tensor)
    return pixels


@pytest.fixture
def images() -> LabelledImages:
    return LabelledImages(
        pixels=torch.randint(0, 256, (20, 2, 4, 5), dtype=torch.uint8),
        labels=torch.arange(20) % 3,
        ids="set/train",
        numbers=torch.arange(20) + 100,
    )


def test_batches_hold_what_preprocessing_and_collation_give(images: LabelledImages) -> None:
    indices = [3, 0, 19]
    batch = collate()(images.__getitems__(indices))
    singly = collate()([images[index] for index in indices])
    assert isinstance(batch.inputs["image"], Tensor)
    expected = torch.stack([preprocess(images.pixels[index], spec=MODALITY, name="image") for index in indices])
    for got in (batch, singly):
        torch.testing.assert_close(got.inputs["image"], expected)
        assert got.masks == {}
        assert got.target is not None
        assert got.target.tolist() == [0, 0, 1]
        assert got.ids == ["set/train/103", "set/train/100", "set/train/119"]


def test_loader_visits_every_sample_once(images: LabelledImages) -> None:
    loader = DataLoader(images, batch_size=8, shuffle=True, collate_fn=collate())  # type: ignore[arg-type]
    batches = list(loader)
    assert [batch.size for batch in batches] == [8, 8, 4]
    assert sorted(name for batch in batches for name in batch.ids) == [f"set/train/{n}" for n in range(100, 120)]


def test_subsets_make_batches_too(images: LabelledImages) -> None:
    (batch,) = DataLoader(Subset(images, [5, 2]), batch_size=2, collate_fn=collate())  # type: ignore[arg-type]
    assert isinstance(batch, Batch)
    assert batch.ids == ["set/train/105", "set/train/102"]


def test_statistics_are_those_of_the_scaled_pixels(images: LabelledImages) -> None:
    mean, deviation = images.statistics()
    scaled = images.pixels.double() / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), scaled.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(torch.tensor(deviation, dtype=torch.float64), scaled.std(dim=(0, 2, 3), correction=0))


def test_augmentation_sees_single_images_in_zero_to_one_before_normalisation(images: LabelledImages) -> None:
    seen: list[Tensor] = []

    def augment(image: Tensor) -> Tensor:
        seen.append(image)
        return torch.zeros_like(image)

    batch = collate(augment)(images.__getitems__([1, 2]))
    assert [tuple(image.shape) for image in seen[-2:]] == [(2, 4, 5)] * 2
    torch.testing.assert_close(seen[-1], images.pixels[2].float() / 255)
    assert isinstance(batch.inputs["image"], Tensor)
    torch.testing.assert_close(batch.inputs["image"][0, :, 0, 0], torch.tensor([-2.0, -5 / 3]))


def test_torchvision_transforms_draw_for_every_sample(images: LabelledImages) -> None:
    same = images.take(torch.zeros(16, dtype=torch.long))
    pixels = pixels_of(collate(v2.RandomCrop((4, 5), padding=3))(same.__getitems__(range(16))))
    assert len({tuple(image.flatten().tolist()) for image in pixels}) > 8


class Inverted(nn.Module):
    draws_per_image = True

    def forward(self, images: Tensor) -> Tensor:
        assert images.ndim == 4
        return 1 - images


def test_transforms_that_draw_per_image_get_the_whole_batch(images: LabelledImages) -> None:
    pixels = pixels_of(collate(Inverted(), mean=[0.0, 0.0], std=[1.0, 1.0])(images.__getitems__([4, 5])))
    torch.testing.assert_close(pixels, 1 - images.pixels[4:6].float() / 255)


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (v2.RandomCrop(3), ValueError, r"data\.augment: RandomCrop.* \(2, 4, 5\) into \(2, 3, 3\); expected the same shape"),
        (v2.ToPILImage(), TypeError, r"data\.augment: expected a float tensor .* got Image"),
        (lambda image: image > 0, TypeError, r"data\.augment: expected a float tensor .* got torch.bool"),
        ("flip", TypeError, r"data\.augment: expected a callable transform or null, got str"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_augmentation_that_does_not_fit_is_refused_before_training(
    augment: object, error: type[Exception], message: str, images: LabelledImages
) -> None:
    with pytest.raises(error, match=message):
        collate(augment).check(images.__getitems__([0, 0]))


def test_trying_the_augmentation_leaves_the_random_state_alone(images: LabelledImages) -> None:
    before = torch.get_rng_state()
    collate(v2.RandomCrop((4, 5), padding=1)).check(images.__getitems__([0, 0]))
    assert torch.equal(before, torch.get_rng_state())


def test_statistics_over_chunks_and_ranges() -> None:
    """Of more images than a chunk, with black and white that are not 0 and 255."""
    pixels = torch.randint(-8, 9, (2500, 2, 1, 2), dtype=torch.int16)
    pixels[:, 1] = 8
    one = LabelledImages(
        pixels=pixels, labels=torch.arange(2500) % 2, ids="x", numbers=torch.arange(2500), value_range=(-8, 8)
    )
    mean, deviation = one.statistics()
    scaled = (pixels.double() + 8) / 16
    assert mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist())
    assert deviation == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-12)
    assert image_statistics(one) == {"image": {"mean": mean, "std": [deviation[0], 1.0]}}, (
        "a constant channel is divided by 1"
    )
    assert one.shape == (2, 1, 2)
    assert one.take(torch.tensor([7])).value_range == (-8, 8)
    assert one.take(torch.tensor([7])).names(torch.tensor([0])) == ["x/7"]


@pytest.mark.parametrize("given", [([0.5], [1.0]), ([0.5, 0.5], [1.0]), ([0.5], [1.0, 1.0]), ([0.5, 0.5], [1.0, -1.0])])
def test_given_statistics_have_a_number_per_channel(given: Any, images: LabelledImages) -> None:
    assert image_statistics(images, given=([0.5, 0.25], [1.0, 0.5])) == {"image": {"mean": [0.5, 0.25], "std": [1.0, 0.5]}}
    with pytest.raises(ValueError, match=r"data\.mean, data\.std: expected 2 numbers each"):
        image_statistics(images, given=given)


def test_specs_of_images() -> None:
    assert image_spec((3, 4, 5)) == {"image": {"kind": "image", "shape": [3, 4, 5], "range": [0, 255]}}
    spec = image_spec((3, 4, 5), value_range=(0, 9), crop_fraction=0.5, column="a")
    assert spec["image"] == {**spec["image"], "range": [0, 9], "crop_fraction": 0.5, "column": "a"}
    known = of_any_size({"modalities": spec, "target": 1})
    assert known == {"modalities": {"image": {"kind": "image", "range": [0, 9], "column": "a"}}, "target": 1}


def test_images_for_prediction_have_no_target(images: LabelledImages) -> None:
    class Unlabelled(LabelledImages):
        labelled = False

    found = Unlabelled(pixels=images.pixels, labels=images.labels, ids="x", numbers=images.numbers)
    assert found.__getitems__([1]).target is None
    assert found[1].target is None
    assert (images[1].target, type(images[1].target), images[1].id) == (1, int, "set/train/101")
    assert images[1].inputs["image"].shape == (2, 4, 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("shade", [7, 51, 100, 200])
def test_a_constant_channel_is_not_magnified(shade: int) -> None:
    pixels = torch.randint(0, 256, (300, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, 1] = shade
    numbers = torch.arange(len(pixels))
    images = LabelledImages(pixels=pixels, labels=numbers % 2, ids="x", numbers=numbers)
    found = image_statistics(images)["image"]
    assert found["std"][0] == pytest.approx(float((pixels[:, 0].double() / 255).std(correction=0)))
    assert found["std"][1] == 1.0
    with pytest.raises(ValueError, match="all training images are a single colour"):
        image_statistics(LabelledImages(pixels=pixels[:, 1:], labels=numbers % 2, ids="x", numbers=numbers))
