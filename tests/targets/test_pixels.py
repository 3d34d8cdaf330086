"""What outputs on a grid mean: class maps, fields in their own units, cut to the size of their sample."""

import io
import math

import matplotlib
import numpy as np
import pytest
import torch
from dense_cases import flowing, segmenting
from PIL import Image

from perceiver.targets.kinds import SavedPrediction, Target, target_of
from perceiver.targets.pixels import (
    FieldPrediction,
    FieldTarget,
    SegmentationPrediction,
    SegmentationTarget,
    cut_to_size,
    field_target,
    flow_target,
    segmentation_target,
)

SEGMENTS = segmentation_target(names=["sky", "sea", "land"], counts=[5, 3, 1], modality="image")


def test_classes_of_pixels_are_a_softmax() -> None:
    target = target_of({"target": SEGMENTS})
    assert isinstance(target, SegmentationTarget)
    assert isinstance(target, Target)
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0, 1, 2] = math.log(2.0)
    [one] = target.predict(logits)
    assert one.classes.tolist() == [[0, 2]]
    assert one.probabilities[:, 0, 1] == pytest.approx([0.25, 0.25, 0.5])
    assert one.shares == {"sky": 0.5, "sea": 0.0, "land": 0.5}
    [compared] = target.compare(logits, torch.tensor([[[1, 2]]]))
    assert (compared.predicted, compared.true, compared.correct, compared.loss) == ("sky, land", "sea, land", False, 0.5)


def test_fields_are_in_their_own_units() -> None:
    target = target_of({"target": field_target(names=["depth"], mean=[10.0], std=[2.0], modality="image")})
    assert isinstance(target, FieldTarget)
    outputs = torch.tensor([[[[0.0], [1.0]]]])
    [one] = target.predict(outputs)
    assert one.values.tolist() == [[[10.0, 12.0]]]
    assert one.names == ("depth",)
    assert target.compare(outputs, torch.tensor([[[[10.0, 15.0]]]]))[0].loss == pytest.approx(1.5)


def test_flow_is_learned_in_units_of_its_root_mean_square() -> None:
    flow, mask = torch.randn(4, 2, 5, 6), torch.rand(4, 5, 6) < 0.5
    facts = flow_target(flow=torch.where(mask[:, None], flow, torch.nan), mask=mask, modality="frames")
    valid = flow.movedim(1, -1)[mask].numpy()
    assert facts["std"] == pytest.approx([np.sqrt((valid**2).mean())] * 2, rel=1e-6)
    assert (facts["kind"], facts["mean"], facts["names"]) == ("flow", [0.0, 0.0], ["x", "y"])
    for wrong in (torch.zeros_like(flow), flow / 0):
        with pytest.raises(ValueError, match="flow_target: expected motion in some valid pixel"):
            flow_target(flow=wrong, mask=mask, modality="frames")
    with pytest.raises(ValueError, match="field_target: expected a finite mean and a standard deviation above 0"):
        field_target(names=["x"], mean=[0.0], std=[0.0], modality="frames")


def test_predictions_of_several_sizes_are_those_of_samples_alone() -> None:
    """In one batch samples are padded; what is returned is not."""
    spec = {"kind": "image", "shape": [2, None, None], "range": [0, 255]}
    model = segmenting(spec={"modalities": {"image": spec}, "target": SEGMENTS}).eval()
    raw = [torch.rand(2, height, width) for height, width in ((6, 7), (3, 5), (9, 4))]
    together = model.predict(raw)
    for one, x in zip(together, raw, strict=True):
        [alone] = model.predict([x])
        assert isinstance(one, SegmentationPrediction)
        assert one.classes.shape == x.shape[1:]
        np.testing.assert_allclose(one.probabilities, alone.probabilities, atol=1e-5)


def test_fields_of_several_sizes() -> None:
    spec = {"kind": "video", "shape": [1, 2, None, None], "range": [0, 255]}
    facts = field_target(names=["x", "y"], mean=[0.0, 1.0], std=[2.0, 3.0], modality="frames")
    model = flowing(spec={"modalities": {"frames": spec}, "target": facts}).eval()
    raw = [torch.rand(1, 2, height, width) for height, width in ((6, 7), (3, 5))]
    for one, x in zip(model.predict(raw), raw, strict=True):
        [alone] = model.predict([x])
        assert isinstance(one, FieldPrediction)
        assert one.values.shape == (2, *x.shape[2:])
        np.testing.assert_allclose(one.values, alone.values, atol=1e-5)


def test_predictions_are_saved() -> None:
    numbers = np.arange(20).reshape(4, 5)
    segments = SegmentationPrediction(numbers, np.full((20, 4, 5), 0.05, np.float32), tuple(map(str, range(20))))
    field = FieldPrediction(np.arange(24, dtype=np.float32).reshape(2, 3, 4), ("x", "y"))
    assert isinstance(segments, SavedPrediction)
    assert isinstance(field, SavedPrediction)
    png, npy = io.BytesIO(), io.BytesIO()
    segments.save(png)
    field.save(npy)
    image = Image.open(png)
    assert np.array_equal(np.asarray(image), numbers)
    colours = [matplotlib.colormaps["tab20"](number)[:3] for number in range(20)]
    assert np.array_equal(np.asarray(image.convert("RGB")).reshape(20, 3), (np.array(colours) * 255).round())
    npy.seek(0)
    assert np.array_equal(np.load(npy), field.values)
    assert (segments.cells()["share_3"], field.cells()) == ("0.05", {"mean_x": "5.5", "mean_y": "17.5"})


def test_comparisons_on_a_grid() -> None:
    """By the share of wrong pixels, and by the mean length of the error."""
    target = SegmentationTarget(names=["sky", "sea"], modality="image")
    logits = torch.tensor([[[3.0, 0.0], [3.0, 0.0]], [[0.0, 3.0], [3.0, 0.0]]])[None]
    compared = target.compare(logits.expand(2, -1, -1, -1), torch.tensor([[[0, 0], [1, 0]], [[0, 0], [0, 1]]]))
    assert [(one.predicted, one.true, one.correct, one.loss) for one in compared] == [
        ("sky, sea", "sky, sea", True, 0.0),
        ("sky, sea", "sky, sea", False, 0.5),
    ]
    field = FieldTarget(names=["x", "y"], mean=[1.0, 0.0], std=[2.0, 1.0], modality="frames")
    outputs, truth = torch.zeros(1, 1, 2, 2), torch.tensor([[[[4.0, 1.0]], [[4.0, 0.0]]]])
    [one] = field.compare(outputs, truth)
    expected = ("error 2.5", f"length {(math.sqrt(32) + 1) / 2:.3g}", None, 2.5)
    assert (one.predicted, one.true, one.correct, one.loss) == expected


def test_many_classes_are_saved_in_sixteen_bits() -> None:
    for count, mode in ((256, "P"), (257, "I;16")):
        numbers = np.array([[0, count - 1]])
        file = io.BytesIO()
        SegmentationPrediction(numbers, np.zeros((1, 1, 2), np.float32), tuple(map(str, range(count)))).save(file)
        image = Image.open(file)
        assert image.mode == mode
        assert np.asarray(image).tolist() == numbers.tolist()


def test_predictions_are_cut_by_the_mask_of_their_modality() -> None:
    target = SegmentationTarget(names=["sky", "sea"], modality="image")
    predictions = target.predict(torch.zeros(2, 3, 4, 2))
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, :2, :4] = mask[1, :1, :3] = True
    cut = cut_to_size(predictions, target=target, masks={"image": mask})
    assert [one.classes.shape for one in cut] == [(2, 4), (1, 3)]
    assert [one.probabilities.shape for one in cut] == [(2, 2, 4), (2, 1, 3)]
    for masks in ({}, {"other": mask}, {"image": mask[:, 0, 0]}):
        assert cut_to_size(predictions, target=target, masks=masks) == predictions


@pytest.mark.parametrize(
    ("mean", "std"), [([0.0], [1.0, 1.0]), ([0.0, 0.0], [1.0]), ([0.0, math.nan], [1.0, 1.0]), ([0.0, 0.0], [1.0, -1.0])]
)
def test_fields_need_statistics_of_every_value(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match=r"field_target: expected a finite mean .* for each of \['x', 'y'\]"):
        field_target(names=["x", "y"], mean=mean, std=std, modality="frames")
    with pytest.raises(ValueError, match="field_target: expected a finite mean"):
        field_target(names=[], mean=[], std=[], modality="frames")


def test_flow_without_a_valid_pixel() -> None:
    nowhere = torch.zeros(1, 2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="got a root mean square of 0.0 over 0"):
        flow_target(flow=torch.ones(1, 2, 2, 3), mask=nowhere, modality="frames")
    with pytest.raises(ValueError, match="expected motion in some valid pixel"):
        flow_target(flow=torch.full((1, 2, 2, 3), math.inf), mask=~nowhere, modality="frames")
