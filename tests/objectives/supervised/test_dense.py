"""Sampled places: which, how often, and that sums over them are those over all places on average."""

import pytest
import torch
from dense_cases import batch_of, images, segmenting

from perceiver.objectives import dense_regression, segmentation
from perceiver.objectives.supervised.dense import Dense, Places, draw_places
from perceiver.objectives.supervised.pixel_classes import PixelClasses
from perceiver.samples.batch import Batch


@pytest.mark.parametrize("at_most", [1, 3, 20])
def test_sums_over_drawn_places_are_those_over_all_on_average(at_most: int) -> None:
    valid = torch.rand(4, 5, 6) < torch.tensor([1.0, 0.7, 0.1, 0.0])[:, None, None]
    values = torch.where(valid, torch.randn(4, 5, 6), torch.nan)
    expected = values[valid].sum()
    sums = []
    for _ in range(500):
        places = draw_places(valid, at_most=at_most)
        assert places.index is not None
        assert places.index.shape[1] <= at_most
        taken = places.taken(values)
        assert bool(taken[places.weight > 0].isfinite().all()), "only valid ones count"
        torch.testing.assert_close(places.weight.sum(dim=1), valid.flatten(1).sum(dim=1).float())
        sums.append(torch.where(places.weight > 0, taken * places.weight, 0.0).sum())
    drawn = torch.stack(sums)
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / len(sums) ** 0.5 + 1e-4
    if at_most == 1:
        assert drawn.std() > 1, "a test without chance tests nothing"


def test_all_places_where_none_are_left_out() -> None:
    valid = torch.rand(2, 3, 4) < 0.5
    for at_most in (None, 12, 100):
        places = draw_places(valid, at_most=at_most)
        assert places.index is None
        assert torch.equal(places.weight, valid.flatten(1).float())


def test_places_of_a_sample_are_all_different() -> None:
    places = draw_places(torch.ones(3, 8, 8, dtype=torch.bool), at_most=40)
    assert places.index is not None
    assert all(len(row.unique()) == 40 for row in places.index)


def test_channels_are_taken_with_their_place() -> None:
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    index = torch.tensor([[0, 11], [5, 5]])
    places = Places(index=index, weight=torch.ones(2, 2))
    flat = values.reshape(2, 12, 5)
    assert torch.equal(places.taken(values, channel_axes=1), torch.stack([flat[0, [0, 11]], flat[1, [5, 5]]]))
    assert torch.equal(places.taken(values[..., 0]), torch.stack([flat[0, [0, 11], 0], flat[1, [5, 5], 0]]))
    assert torch.equal(Places(index=None, weight=valid.flatten(1).float()).taken(values, channel_axes=1), flat)


class Fragile(PixelClasses):
    """Has no loss for class 2."""

    def losses(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.where(target == 2, torch.nan, super().losses(outputs, target))


def test_losses_of_invalid_places_do_not_matter_and_others_do() -> None:
    criterion = Fragile(num_classes=3, label_smoothing=0.0, class_weights=None, class_names=())
    objective, model = Dense(task="segmentation", criterion=criterion, num_queries=1), segmenting()
    target = torch.zeros(2, 6, 7, dtype=torch.int64)
    target[:, 3:] = 2
    for valid, finite in ((target != 2, True), (target != 9, False)):
        batch = batch_of("image", images(2), target, valid)
        for num_queries in (None, 40):
            objective.num_queries = num_queries
            assert bool(objective.loss(model, batch).isfinite()) is finite


def test_one_query_and_leading_samples() -> None:
    model = segmenting().eval()
    objective = segmentation(num_classes=3, num_queries=1)
    batch = objective.check(model, batch_of("image", images(3), torch.randint(0, 3, (3, 6, 7))))
    found = []
    for count in (1, 3, None):
        metrics = objective.metrics(model)
        with torch.no_grad():
            objective.evaluate(model, batch, metrics, count=count)
        found.append({name: float(value) for name, value in objective.results(metrics).items()})
    with torch.no_grad():
        outputs = model(batch.inputs)
    assert batch.target is not None
    for result, rows in zip(found, (1, 3, 3), strict=True):
        expected = torch.nn.functional.cross_entropy(outputs[:rows].flatten(0, 2), batch.target[:rows].flatten())
        assert result["loss"] == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match=r"task\.num_queries: expected at least 1 per sample, or null for all, got 0"):
        segmentation(num_classes=3, num_queries=0)


def test_grids_of_one_axis() -> None:
    """The criteria of pixels do not need two axes."""
    fields = dense_regression(mean=[0.0], std=[2.0]).criterion
    target = torch.tensor([[[2.0, 4.0]], [[6.0, torch.nan]]])
    valid = torch.tensor([[True, True], [True, False]])
    checked = fields.checked(Batch(inputs={"x": torch.zeros(2, 1, 2)}, target=target, target_mask=valid))
    assert checked.target is not None
    assert checked.target.tolist() == [[[2.0], [4.0]], [[6.0], [0.0]]]
    assert fields.losses(torch.zeros(2, 2, 1), checked.target).tolist() == [[1.0, 2.0], [3.0, 0.0]]
    classes = segmentation(num_classes=2).criterion
    numbers = torch.tensor([[0, 1], [1, 7]])
    found = classes.checked(Batch(inputs={"x": torch.zeros(2, 1, 2)}, target=numbers, target_mask=valid)).target
    assert found is not None
    assert found.tolist() == [[0, 1], [1, 0]]
    for wrong in (torch.tensor([[0, 2]]), torch.tensor([[0, -1]])):
        with pytest.raises(ValueError, match=r"pixel \[1\]: expected a class number from 0 to 1"):
            classes.checked(Batch(inputs={"x": torch.zeros(1, 1, 2)}, target=wrong))
