"""MixUp and CutMix: images and targets are mixed in the same shares, and what cannot be mixed is refused."""

import pytest
import torch
from torch import Tensor

from perceiver.batch import Batch
from perceiver.data.augmentation.mixing import MixUpCutMix


def batch(count: int = 16, classes: int = 4) -> Batch:
    """Images of one colour each, which is the number of the image; the class is that number modulo `classes`."""
    numbers = torch.arange(count)
    images = numbers.float().view(-1, 1, 1, 1).expand(count, 2, 20, 30)
    return Batch(inputs={"image": images}, target=numbers % classes, ids=[f"image/{n}" for n in range(count)])


def image(mixed: Batch) -> Tensor:
    pixels = mixed.inputs["image"]
    assert isinstance(pixels, Tensor)
    return pixels


def target(mixed: Batch) -> Tensor:
    assert mixed.target is not None
    assert mixed.target.dtype == torch.float32
    torch.testing.assert_close(mixed.target.sum(dim=1), torch.ones(len(mixed.target)))
    return mixed.target


def test_mixup_mixes_pixels_and_targets_alike() -> None:
    original = batch()
    mixed = MixUpCutMix(num_classes=4, mixup_alpha=1.0, cutmix_alpha=None)(original)
    assert (image(mixed) == image(mixed)[:, :1, :1, :1]).all(), "every pixel in the same ratio"
    # Neighbour n - 1 in share 1 - r: the colour is n - (1 - r).
    share = 1 - (torch.arange(1, 16) - image(mixed)[1:, 0, 0, 0])
    assert share.std() < 1e-5
    assert 0.01 < share[0] < 0.99
    for row in range(1, 16):
        expected = torch.zeros(4)
        expected[row % 4] += share[0]
        expected[(row - 1) % 4] += 1 - share[0]
        torch.testing.assert_close(target(mixed)[row], expected)
    assert mixed.ids == original.ids
    assert torch.equal(image(original), image(batch())), "not in place"


def test_cutmix_shares_are_areas() -> None:
    mixed = MixUpCutMix(num_classes=4, mixup_alpha=None, cutmix_alpha=1.0)(batch())
    own = (image(mixed)[5, 0] == 5).float().mean()
    assert 0 < own < 1
    assert set(image(mixed)[5].unique().tolist()) == {4.0, 5.0}
    torch.testing.assert_close(target(mixed)[5], torch.tensor([1 - own, own, 0.0, 0.0]))


def test_both_share_the_batch() -> None:
    mixed = MixUpCutMix(num_classes=4, mixup_alpha=1.0, cutmix_alpha=1.0)(batch(count=9))
    kinds = [len(pixels.unique()) for pixels in image(mixed)]
    assert kinds[:5] == [1] * 5, "MixUp: one colour, a new one"
    assert kinds[5:] == [2] * 4, "CutMix: two of the old ones"
    assert len(MixUpCutMix(num_classes=4)(batch(count=1)).inputs) == 1


def test_batches_draw_anew_and_may_be_left_alone() -> None:
    mix = MixUpCutMix(num_classes=4)
    assert not torch.equal(image(mix(batch())), image(mix(batch())))
    original = batch()
    assert MixUpCutMix(num_classes=4, probability=0.0)(original) is original
    sometimes = MixUpCutMix(num_classes=4, probability=0.5)
    mixed = [sometimes(original) is not original for _ in range(200)]
    assert 70 < sum(mixed) < 130


def test_shares_can_be_mixed_again() -> None:
    mix = MixUpCutMix(num_classes=4)
    assert target(mix(mix(batch()))).shape == (16, 4)


def test_other_modalities_and_masks_are_refused() -> None:
    mix = MixUpCutMix(num_classes=4)
    several = batch()
    several.inputs["audio"] = torch.zeros(16, 1, 100)
    masked = batch()
    masked.masks["image"] = torch.ones(16, dtype=torch.bool)
    for wrong in (several, masked, Batch(inputs={"points": torch.zeros(16, 5, 3)}, target=torch.zeros(16).long())):
        with pytest.raises(ValueError, match=r"task\.mix: expected batches of only the images 'image'"):
            mix(wrong)
    with pytest.raises(ValueError, match="expected a target"):
        mix(Batch(inputs=batch().inputs))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"mixup_alpha": 0.0}, r"MixUpCutMix\.mixup_alpha"),
        ({"cutmix_alpha": -1.0}, r"MixUpCutMix\.cutmix_alpha"),
        ({"mixup_alpha": None, "cutmix_alpha": None}, "MixUpCutMix: expected mixup_alpha or cutmix_alpha"),
        ({"probability": 1.5}, r"MixUpCutMix\.probability"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float | None], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MixUpCutMix(num_classes=4, **arguments)  # type: ignore[arg-type]
