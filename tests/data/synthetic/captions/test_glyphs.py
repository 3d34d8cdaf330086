"""Glyphs: boxes against a plain search, ink that is kept and centred, small digits like large ones."""

import torch

from perceiver.data.loading.images import LabelledImages
from perceiver.data.synthetic.captions.glyphs import Glyphs, ink_boxes


def digits() -> LabelledImages:
    """Rectangles of ink at random places of 28 x 28 pixels, at most 20 on a side."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(30, 1, 28, 28, dtype=torch.uint8)
    for image in pixels:
        height, width = torch.randint(3, 21, (2,), generator=generator).tolist()
        top, left = (int(torch.randint(28 - side + 1, (), generator=generator)) for side in (height, width))
        image[0, top : top + height, left : left + width] = torch.randint(
            100, 256, (height, width), generator=generator, dtype=torch.uint8
        )
    return LabelledImages(pixels=pixels, labels=torch.arange(30) % 10, ids="d", numbers=torch.arange(30))


def test_boxes() -> None:
    pixels = digits().pixels[:, 0]
    for image, (top, bottom, left, right) in zip(pixels, ink_boxes(pixels).tolist(), strict=True):
        rows, columns = (image > 64).nonzero(as_tuple=True)
        assert (top, bottom) == (int(rows.min()), int(rows.max()) + 1)
        assert (left, right) == (int(columns.min()), int(columns.max()) + 1)


def test_ink_is_kept_and_centred() -> None:
    images = digits()
    glyphs = Glyphs.of(images)
    assert glyphs.large.shape == (30, 20, 20)
    assert glyphs.small.shape == (30, 13, 13)
    assert torch.equal(glyphs.large.sum(dim=(1, 2), dtype=torch.int64), images.pixels.sum(dim=(1, 2, 3), dtype=torch.int64))
    for side, own in ((20, glyphs.boxes[:, 1]), (13, glyphs.boxes[:, 0])):
        off = (own[:, 0::2] + own[:, 1::2]) / 2 - side / 2
        assert float(off.abs().max()) <= 1
    before, after = (own[:, 1::2] - own[:, 0::2] for own in (glyphs.boxes[:, 1], glyphs.boxes[:, 0]))
    assert ((after - before * 13 / 20).abs() <= 2).all()
    assert torch.equal(glyphs.labels, images.labels)


def test_images_without_ink_have_a_box() -> None:
    assert ink_boxes(torch.zeros(1, 20, 20, dtype=torch.uint8)).tolist() == [[0, 20, 0, 20]]
