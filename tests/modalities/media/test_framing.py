"""Framing: images of any size, mode and orientation become RGB images of one size."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image
from torchvision.transforms import v2

from perceiver.modalities.media.framing import Frame, deep_range_of, to_rgb, upright


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


def grey(*values: int, dtype: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def test_deep_pixels_are_rounded() -> None:
    """Half of a step up, from 0 to 65535 or from black to white."""
    assert np.asarray(to_rgb(grey(128, 129, 65406, 65407)))[0, :, 0].tolist() == [0, 1, 254, 255]
    assert np.asarray(to_rgb(grey(1000, 1499, 2000), deep_range=[1000, 2000]))[0, :, 0].tolist() == [0, 127, 255]
    for wrong in (999, 2001):
        with pytest.raises(ValueError, match="exceed the range of 1000 to 2000"):
            to_rgb(grey(1500, wrong), deep_range=[1000, 2000])
    for wrong in (65536, -1):
        with pytest.raises(ValueError, match="have no known range"):
            to_rgb(grey(5, wrong, dtype=np.int32))
        with pytest.raises(ValueError, match="does not determine the range"):
            deep_range_of([grey(5, wrong, dtype=np.int32)])


@pytest.mark.parametrize(
    ("largest", "white"),
    [
        *((0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 16383), (16383, 16383)),
        *((16384, 65535), (65535, 65535)),
    ],
)
def test_the_range_is_that_of_a_number_of_bits(largest: int, white: int) -> None:
    assert deep_range_of([grey(0, largest), grey(0)]) == [0, white]


def test_palettes_with_transparency_keep_their_colours() -> None:
    """Pillow warns of a conversion to RGB if each colour has its transparency."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = b"\x00\x80"
    assert np.asarray(to_rgb(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_damaged_colours_are_an_error_at_once() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "PNG")
    content = file.getvalue()
    with Image.open(io.BytesIO(content[: len(content) // 2])) as image, pytest.raises(OSError, match=r"."):
        to_rgb(image)


def test_a_crop_changes_images_of_the_size_too() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    half = Frame(size=[8, 8], crop_fraction=0.5)(image, resample=Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(half), np.asarray(image)[2:6, 2:6].repeat(2, axis=0).repeat(2, axis=1))
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 9), dtype=np.uint8))
    assert np.array_equal(np.asarray(Frame(size=[4, 3])(wide, resample=Image.Resampling.NEAREST)), np.asarray(wide)[:, 3:6])


def test_an_image_is_cut_along_one_axis_only() -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 4), dtype=np.uint8))
    assert np.array_equal(np.asarray(Frame(size=[3, 4])(tall, resample=Image.Resampling.NEAREST)), np.asarray(tall)[3:6])
