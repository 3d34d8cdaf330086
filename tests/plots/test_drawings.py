"""One drawing for each kind of input: what stands where on the axes."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plots_cases import MODALITIES, model

from perceiver.plots import (
    AudioDrawing,
    Drawing,
    GridDrawing,
    ImageDrawing,
    PointDrawing,
    drawing_of,
)


def axes_of(drawing: Drawing) -> Axes:
    return Figure().add_subplot(projection=drawing.projection)


def drawn(axes: Axes) -> None:
    axes.figure.canvas.draw()


def test_kinds_have_their_drawing() -> None:
    perceiver = model()
    kinds = {name: drawing_of(MODALITIES[name], perceiver.adapters[name]) for name in MODALITIES}
    assert {name: type(drawing) for name, drawing in kinds.items()} == {
        "image": ImageDrawing,
        "sound": AudioDrawing,
        "points": PointDrawing,
        "readings": GridDrawing,
    }
    assert all(isinstance(drawing, Drawing) for drawing in kinds.values())
    assert kinds["image"].stride == 4  # type: ignore[attr-defined]
    assert kinds["sound"].hop == 40  # type: ignore[attr-defined]
    assert kinds["points"].projection == "3d"
    assert type(drawing_of({}, None)) is GridDrawing


def test_images() -> None:
    image = torch.rand(3, 9, 8)
    drawing = ImageDrawing(stride=4)
    axes = axes_of(drawing)
    drawing.sample(axes, image, None)
    np.testing.assert_allclose(axes.images[0].get_array(), image.permute(1, 2, 0))
    for channels in (1, 2, 5):
        axes = axes_of(drawing)
        drawing.sample(axes, torch.rand(channels, 9, 8), None)
        assert axes.images[0].get_array().shape == (9, 8)
    axes, weights = axes_of(drawing), torch.rand(3, 2)
    drawing.attention(axes, image, None, weights)
    grey, heat = axes.images
    np.testing.assert_allclose(grey.get_array(), image.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(heat.get_array(), weights)
    assert heat.get_extent() == [-0.5, 7.5, 11.5, -0.5], "patches of 4 pixels, the last ones beyond the edge"
    assert axes.get_ylim() == (8.5, -0.5), "which is not shown"
    axes = axes_of(drawing)
    ImageDrawing().attention(axes, image, None, weights)
    assert axes.images[1].get_extent() == [-0.5, 7.5, 8.5, -0.5]


def test_sound_as_waveform_and_attention_over_time() -> None:
    drawing = AudioDrawing(sample_rate=100, hop=25)
    sound, weights = torch.randn(1, 90), torch.tensor([0.1, 0.2, 0.3, 0.4])
    axes = axes_of(drawing)
    drawing.attention(axes, sound, None, weights)
    [line] = axes.lines
    np.testing.assert_allclose(line.get_ydata(), sound[0])
    np.testing.assert_allclose(line.get_xdata(), np.arange(90) / 100)
    [curve] = axes.figure.axes[1].lines
    np.testing.assert_allclose(curve.get_xdata(), [0.125, 0.375, 0.625, 0.875], err_msg="the middle of each frame")
    np.testing.assert_allclose(curve.get_ydata(), weights)
    assert axes.get_xlim() == (0.0, 0.9)
    drawn(axes)


def test_sound_as_spectrum() -> None:
    adapter = model("sound").adapters["sound"]
    drawing = AudioDrawing.of(MODALITIES["sound"], adapter)
    sound = torch.randn(1, 410)
    axes = axes_of(drawing)
    drawing.attention(axes, sound, None, torch.rand(11, 8))
    bands, heat = axes.images
    np.testing.assert_allclose(bands.get_array(), adapter.log_mel(sound)[0], rtol=1e-4, atol=1e-4)  # type: ignore[operator]
    assert bands.get_extent() == pytest.approx([0.0, 0.55, 0.0, 8.0]), "eleven hops of 0.05 s, low bands below"
    assert heat.get_extent() == pytest.approx([0.0, 0.55, 0.0, 8.0])
    assert heat.get_array().shape == (8, 11)
    drawn(axes)


@pytest.mark.parametrize("num_coordinates", [1, 2, 3, 5])
def test_points(num_coordinates: int) -> None:
    drawing = PointDrawing(num_coordinates=num_coordinates)
    points, weights = torch.randn(7, max(num_coordinates, 4)), torch.rand(7)
    mask = torch.tensor([True] * 5 + [False, True])
    for colours in (None, weights):
        axes = axes_of(drawing)
        if colours is None:
            drawing.sample(axes, points, mask)
        else:
            drawing.attention(axes, points, mask, weights)
        [dots] = axes.collections
        drawn(axes)
        if num_coordinates < 3:
            np.testing.assert_allclose(dots.get_offsets(), points[mask][:, :2])
            assert axes.yaxis_inverted()
        if colours is not None:
            heat = np.asarray(dots.get_array())
            np.testing.assert_allclose(np.sort(heat), np.sort((weights[mask] / weights[mask].max()).numpy()), rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(()),
        torch.randn(9),
        torch.randn(9, 2),
        torch.randn(2, 3, 4, 5),
        torch.randint(9, (6,)),
        torch.rand(5) > 0.5,
        torch.full((3, 3), float("nan")),
        {"values": torch.randn(4), "times": torch.randn(4)},
        torch.zeros(0, 4),
    ],
    ids=["number", "line", "table", "volume", "symbols", "flags", "nan", "several", "empty"],
)
def test_anything_can_be_drawn(x: Any) -> None:
    drawing = GridDrawing()
    axes = axes_of(drawing)
    drawing.sample(axes, x, None)
    drawn(axes)
    for grid in ((5,), (5, 4), (2, 3, 4), (1,)):
        axes = axes_of(drawing)
        drawing.attention(axes, x, None, torch.rand(grid))
        drawn(axes)


@pytest.mark.parametrize("drawing", [ImageDrawing(), AudioDrawing(sample_rate=10), PointDrawing(num_coordinates=2)])
def test_attention_over_a_grid_that_is_not_expected(drawing: Drawing) -> None:
    """An adapter of your own may make any grid of an image, a sound or a point set."""
    x = {ImageDrawing: torch.rand(3, 4, 4), AudioDrawing: torch.randn(1, 20)}.get(type(drawing), torch.randn(6, 2))
    axes = axes_of(drawing)
    drawing.attention(axes, x, None, torch.rand(2, 3, 4))
    drawn(axes)
