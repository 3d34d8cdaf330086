"""Random colours: what stays, what changes, separately for every image."""

import pytest
import torch

from perceiver.data.augmentation.colours import RandomColours


def test_white_black_and_places_stay() -> None:
    images = torch.zeros(20, 3, 6, 6)
    images[:, :, :3] = 1.0
    changed = RandomColours(saturation=1.0, grey=0.5, mixing=0.1, gamma=0.5)(images)
    torch.testing.assert_close(changed, images, atol=1e-5, rtol=0)


def test_every_image_has_colours_of_its_own() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 4, 4).expand(30, -1, -1, -1)
    changed = RandomColours(saturation=0.5, mixing=0.1, gamma=0.3)(images)
    assert len(changed.flatten(1).unique(dim=0)) == 30
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    torch.testing.assert_close(RandomColours()(images), images, atol=1e-6, rtol=0)


def test_parts_do_what_they_are_for() -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 8, 8)
    grey = RandomColours(grey=1.0)(image)
    torch.testing.assert_close(grey, image.mean(dim=0, keepdim=True).expand(3, -1, -1))
    power = RandomColours(gamma=0.5)(image)
    exponent = power.log() / image.log()
    torch.testing.assert_close(exponent, exponent.mean().expand_as(exponent), atol=1e-3, rtol=1e-3)
    share = RandomColours(grey=0.25)(image.expand(4000, -1, -1, -1)).std(dim=1).amax(dim=(1, 2)).eq(0).float().mean()
    assert 0.2 < float(share) < 0.3


@pytest.mark.parametrize("settings", [{"saturation": 1.5}, {"grey": -0.1}, {"mixing": -1.0}, {"gamma": float("nan")}])
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"RandomColours\.{next(iter(settings))}: expected 0 to"):
        RandomColours(**settings)


@pytest.mark.usefixtures("unchecked")
def test_grey_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected three channels, got images of shape \(2, 1, 4, 4\)"):
        RandomColours()(torch.rand(2, 1, 4, 4))
