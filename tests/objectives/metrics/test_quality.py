"""Means with weights, the coefficient of determination, and what follows from a confusion matrix."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, r2_score

from perceiver.objectives.metrics.quality import (
    Determination,
    RankingQuality,
    WeightedMean,
    confusion_matrix,
    correct_share,
    intersections_over_union,
    mean_recall,
)


def test_values_count_by_their_weights() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor([1.0, 5.0, torch.nan]), torch.tensor([3.0, 1.0, 0.0]))
    assert float(mean.compute()) == 2.0
    mean.update(torch.tensor([8.0]), torch.tensor([True]))
    assert float(mean.compute()) == pytest.approx(16 / 5)
    mean.update(torch.tensor(0.0), 5)
    assert float(mean.compute()) == pytest.approx(16 / 10), "a mean of five samples"
    mean.update(torch.tensor(torch.nan), 0)
    assert float(mean.compute()) == pytest.approx(16 / 10), "a mean of none"
    mean.update(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert float(mean.compute()) == pytest.approx(16 / 10)


def test_a_lost_value_is_seen() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0]))
    assert bool(mean.compute().isnan())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_mean_of_nothing_is_no_number() -> None:
    assert bool(WeightedMean().compute().isnan())


def test_means_count_beyond_half_precision() -> None:
    """1200 samples in bfloat16, one by one, would be 256."""
    mean = WeightedMean()
    for number in range(1200):
        mean.update(torch.tensor(number % 2, dtype=torch.bfloat16), 1)
    assert float(mean.compute()) == 0.5
    assert mean.weight == 1200


def test_determination_over_outputs_that_vary() -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.normal(size=(2, 9, 3)).astype(np.float32)
    truth[:, 1] = 5.0
    metric = Determination(num_outputs=3)
    for rows in (slice(0, 2), slice(2, 2), slice(2, 9)):
        if rows.stop > rows.start:
            metric.update(torch.from_numpy(predicted[rows]), torch.from_numpy(truth[rows]))
    assert float(metric.compute()) == pytest.approx(r2_score(truth[:, [0, 2]], predicted[:, [0, 2]]), rel=1e-5)
    metric.reset()
    metric.update(torch.from_numpy(predicted), torch.full((9, 3), 5.0))
    assert bool(metric.compute().isnan()), "constant targets"
    metric.reset()
    metric.update(torch.rand(1, 3), torch.rand(1, 3))
    assert bool(metric.compute().isnan()), "a single sample"


def test_shares_of_a_confusion_matrix() -> None:
    """The second class is never true, the last neither true nor predicted."""
    confusion = torch.tensor([[5, 1, 0, 0], [0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]).double()
    truth, predicted = [0] * 6 + [2] * 4, [0] * 5 + [1] + [0, 0, 2, 2]
    assert float(correct_share(confusion)) == pytest.approx(0.7)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(truth, predicted)
    assert float(mean_recall(confusion)) == pytest.approx(expected)
    each, mean = intersections_over_union(confusion)
    assert each.tolist() == pytest.approx([5 / 8, 0.0, 0.5, 0.0])
    assert float(mean) == pytest.approx((5 / 8 + 0.5) / 3)


def test_classes_of_a_single_sample_count() -> None:
    confusion = torch.tensor([[0, 1, 0], [0, 3, 0], [0, 0, 0]]).double()
    assert float(mean_recall(confusion)) == 0.5
    each, mean = intersections_over_union(confusion)
    assert each.tolist() == [0.0, 0.75, 0.0]
    assert float(mean) == 0.375, "the first class is true once, the last nowhere"
    one = torch.tensor([[1, 0], [0, 0]]).double()
    assert (float(mean_recall(one)), float(intersections_over_union(one)[1])) == (1.0, 1.0)
    assert confusion_matrix(3).update(torch.tensor([1]), torch.tensor([0])) is None


def test_ranking_of_one_score_and_of_one_class() -> None:
    """Equal scores rank equally; labels that are always positive have a precision but no curve."""
    quality = RankingQuality()
    quality.update(torch.zeros(4, 1), torch.tensor([[1.0], [0.0], [0.0], [0.5]]))
    assert {name: float(value) for name, value in quality.compute().items()} == {"average_precision": 0.25, "auroc": 0.5}
    quality.reset()
    quality.update(torch.rand(3, 1), torch.ones(3, 1))
    found = quality.compute()
    assert float(found["average_precision"]) == 1.0
    assert bool(found["auroc"].isnan())
    assert found["auroc"].dtype == torch.float32


def test_weights_as_numbers_and_as_masks() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor(4.0), 1)
    mean.update(torch.tensor([8.0, math.nan]), torch.tensor([0.5, 0.0]))
    assert float(mean.compute()) == pytest.approx((4 + 4) / 1.5)


def test_states_have_their_shape_before_any_sample() -> None:
    """All processes synchronise, those without a sample too."""
    metric = Determination(num_outputs=3)
    for name in ("sum_squared_error", "sum_error", "residual", "least", "most"):
        assert getattr(metric, name).shape == (3,)
