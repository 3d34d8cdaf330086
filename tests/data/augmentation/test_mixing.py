"""MixUp and CutMix: images and targets are mixed in the same shares, and what cannot be mixed is refused."""

import pytest
import torch
from torch import Tensor

from perceiver.data.augmentation.mixing import MixUpCutMix
from perceiver.samples.batch import Batch


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


def pairs() -> Batch:
    """Photos of one colour and sounds of one level and several lengths, the number of the sample; some are absent."""
    count = 6
    numbers = torch.arange(1.0, count + 1)
    lengths = torch.tensor([4, 8, 3, 0, 0, 5])
    photos = numbers.view(-1, 1, 1, 1).expand(count, 3, 4, 4).clone()
    present = torch.tensor([True, True, True, True, True, False])
    photos[~present] = torch.nan
    heard = torch.arange(8) < lengths[:, None]
    sounds = torch.where(heard[:, None], numbers.view(-1, 1, 1), torch.nan)
    return Batch(
        inputs={"photo": photos, "voice": sounds},
        masks={"photo": present, "voice": heard},
        target=torch.arange(count) % 3,
        ids=[str(n) for n in range(count)],
    )


def test_samples_with_the_same_modalities_are_mixed_together() -> None:
    mix = MixUpCutMix(num_classes=3, mixup_alpha=1.0, cutmix_alpha=None, modality=["photo", "voice"])
    before, after = pairs(), mix(pairs())
    photo, voice = after.inputs["photo"], after.inputs["voice"]
    assert isinstance(photo, Tensor)
    assert isinstance(voice, Tensor)
    # Samples 1 and 2 have a neighbour with photo and sound, 4 one with a photo alone; 0, 3 and 5 have others.
    share = 1 - (2 - photo[1, 0, 0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(photo[2], torch.full((3, 4, 4), float(3 * share + 2 * (1 - share))))
    torch.testing.assert_close(photo[4], torch.full((3, 4, 4), float(5 * share + 4 * (1 - share))))
    for row in (0, 3):
        torch.testing.assert_close(photo[row], before.inputs["photo"][row])  # type: ignore[index]
    assert after.masks["photo"].tolist() == before.masks["photo"].tolist()
    assert after.masks["voice"].sum(dim=1).tolist() == [4, 8, 8, 0, 0, 5], "as long as the longer"
    torch.testing.assert_close(
        voice[2, 0], torch.tensor([*[float(3 * share + 2 * (1 - share))] * 3, *[float(2 * (1 - share))] * 5])
    )
    expected = torch.nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    for row in (1, 2, 4):
        expected[row] = 0
        expected[row, row % 3] += share
        expected[row, (row - 1) % 3] += 1 - share
    torch.testing.assert_close(target(after), expected)


def test_labels_are_mixed() -> None:
    labels = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]]).repeat(8, 1)
    images = batch().inputs
    mixed = MixUpCutMix(num_classes=4, mixup_alpha=1.0, cutmix_alpha=None)(Batch(inputs=images, target=labels))
    assert mixed.target is not None
    share = mixed.target[1, 3]
    torch.testing.assert_close(mixed.target[1], torch.tensor([1 - share, 1 - share, 0, share]))


def test_what_cannot_be_mixed_is_refused() -> None:
    mix = MixUpCutMix(num_classes=3, cutmix_alpha=None, modality=["photo", "voice"])
    for other in (torch.zeros(6, 5, dtype=torch.int64), {"values": torch.zeros(6, 5, 1)}):
        wrong = pairs()
        wrong.inputs["other"] = other
        with pytest.raises(ValueError, match=r"task\.mix: expected only photo, voice .*; got 'other'"):
            mix(wrong)
    text = Batch(inputs={"photo": torch.zeros(6, 5, dtype=torch.int64)}, target=torch.zeros(6).long())
    with pytest.raises(ValueError, match=r"task\.mix: expected only photo, voice .*; got 'photo'"):
        mix(text)
    values = pairs()
    values.target = torch.rand(6, 2)
    with pytest.raises(
        ValueError, match=r"task\.mix: expected classes \(B,\), or .* got a target of torch.float32 \(6, 2\)"
    ):
        mix(values)
    with pytest.raises(ValueError, match=r"MixUpCutMix\.modality: .* CutMix takes only images"):
        MixUpCutMix(num_classes=3, modality=["photo", "voice"])


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
