"""Figures of dense predictions: what is shown is cut to the sample, and errors are those of valid pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from dense_cases import flowing, frames, pooled, segmenting
from matplotlib.figure import Figure

from perceiver.plots import Fields, Segmentations
from perceiver.plots.supervised.dense import class_colours, end_point_error, shown_samples
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import target_of
from perceiver.targets.pixels import field_target, flow_target, segmentation_target

IMAGE = {"kind": "image", "shape": [2, None, None], "range": [0, 255]}
FRAMES = {"kind": "video", "shape": [1, 2, None, None], "range": [0, 255]}


def flow_model(kind: str = "flow") -> Any:
    target = flow_target(flow=torch.ones(1, 2, 2, 2), mask=torch.ones(1, 2, 2, dtype=torch.bool), modality="frames")
    if kind == "field":
        target = field_target(names=["u", "v"], mean=[0.0, 0.0], std=[1.0, 1.0], modality="frames")
    return flowing(spec={"modalities": {"frames": FRAMES}, "target": target})


def flow_batch() -> Batch:
    mask = torch.rand(3, 6, 7) < 0.7
    return Batch(inputs={"frames": frames(3)}, target=torch.randn(3, 2, 6, 7), target_mask=mask, ids=["a", "b", "c"])


@pytest.mark.parametrize("kind", ["flow", "field"])
def test_fields(kind: str) -> None:
    model = flow_model(kind)
    figures = Fields(num_samples=2)(model, [flow_batch()])
    assert list(figures) == [kind]
    assert isinstance(figures[kind], Figure)
    assert len(figures[kind].axes) == 2 * (4 if kind == "flow" else 3)
    assert "error" in figures[kind].axes[-1].get_title(loc="left")


def test_the_error_is_that_of_valid_pixels() -> None:
    model, batch = flow_model(), flow_batch()
    [one] = shown_samples(model, [batch], target=target_of(model.spec), count=1)
    difference = np.linalg.norm(one.prediction.values - batch.target[0].numpy(), axis=0)
    assert end_point_error(one) == pytest.approx(difference[batch.target_mask[0].numpy()].mean(), rel=1e-5)


def test_segmentations_of_several_sizes() -> None:
    model = segmenting(
        spec={
            "modalities": {"image": IMAGE},
            "target": segmentation_target(names=["a", "b", "c"], counts=[1, 1, 1], modality="image"),
        }
    )
    samples = [
        Sample(inputs={"image": torch.rand(2, h, w)}, target=torch.randint(0, 3, (h, w)), id=f"{h}x{w}")
        for h, w in ((6, 7), (3, 9))
    ]
    batch = Collate(modalities={"image": IMAGE})(samples)
    shown = shown_samples(model, [batch], target=target_of(model.spec), count=5)
    assert [tuple(one.truth.shape) for one in shown] == [(6, 7), (3, 9)]
    assert all(one.prediction.classes.shape == one.truth.shape == one.valid.shape for one in shown)
    [figure] = Segmentations()(model, [batch]).values()
    assert len(figure.axes) == 6
    assert {text.get_text() for text in figure.legends[0].get_texts()} <= {"a", "b", "c"}


def test_models_and_batches_of_another_kind_have_none() -> None:
    assert Fields()(pooled(), [flow_batch()]) == {}
    assert Segmentations()(pooled(), []) == {}
    assert Segmentations()(flow_model(), [flow_batch()]) == {}
    assert Fields()(flow_model(), [Batch(inputs={"frames": frames(2)})]) == {}


@pytest.mark.parametrize("count", [2, 11, 20, 150])
def test_colours_differ(count: int) -> None:
    assert len(set(class_colours(count))) == count


@pytest.mark.parametrize("make", [Fields, Segmentations])
def test_wrong_settings(make: Any) -> None:
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        make(num_samples=0)
