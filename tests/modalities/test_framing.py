"""Framing: images of any size, mode and orientation become RGB images of one size."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image
from torchvision.transforms import v2

from perceiver.modalities.framing import Frame, deep_range_of, to_rgb, upright


@pytest.mark.parametrize(("size", "fraction"), [((64, 48), 1.0), ((48, 64), 1.0), ((100, 30), 1.0), ((64, 64), 0.75)])
def test_a_frame_is_a_resized_centre_crop(size: tuple[int, int], fraction: float) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    framed = Frame(size=[24, 24], crop_fraction=fraction)(image)
    assert framed.size == (24, 24)
    reference = v2.Compose([v2.Resize(round(24 / fraction), v2.InterpolationMode.BICUBIC), v2.CenterCrop(24)])(image)
    difference = np.abs(np.asarray(framed).astype(float) - np.asarray(reference))
    assert difference.mean() < 6, "whole pixels against fractions of them"
    assert Frame(size=[size[1], size[0]])(image) is image, "nothing to do"


def test_turned_images_are_turned_back_and_the_given_one_is_left_alone() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    assert upright(image) is image
    image.getexif()[0x0112] = 6
    turned = upright(image)
    assert turned.size == (4, 6)
    assert image.size == (6, 4)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_sixteen_bits_are_scaled_and_floating_point_has_no_range() -> None:
    deep = Image.fromarray(np.array([[0, 128, 257], [25700, 65279, 65535]], dtype=np.uint16))
    expected = np.array([[0, 0, 1], [100, 254, 255]], dtype=np.uint8)
    assert np.array_equal(np.asarray(to_rgb(deep)), np.stack([expected] * 3, axis=-1))
    with pytest.raises(ValueError, match="no known range"):
        to_rgb(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))


def test_pixels_of_a_known_range() -> None:
    twelve = Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16))
    assert np.asarray(to_rgb(twelve, deep_range=[0, 4095]))[0, :, 0].tolist() == [0, 128, 255]
    few = Image.fromarray(np.array([[0, 128, 255]], dtype=np.int32))
    assert deep_range_of([few, Image.new("RGB", (1, 1))]) == [0, 255]
    assert deep_range_of([few, twelve]) == [0, 4095]
    assert deep_range_of([Image.new("L", (1, 1))]) is None
    with pytest.raises(ValueError, match="0 to 4095, exceed the range of 0 to 255"):
        to_rgb(twelve, deep_range=[0, 255])
    with pytest.raises(ValueError, match="does not determine the range: set deep_range"):
        deep_range_of([Image.new("F", (1, 1))])


def test_damage_is_not_suppressed_with_errors_of_exif_data() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.effect_noise((64, 64), 50).save(file, "PNG", exif=exif)
    content = file.getvalue()
    with Image.open(io.BytesIO(content[: len(content) // 2])) as image, pytest.raises(OSError, match=r"."):
        upright(image)
