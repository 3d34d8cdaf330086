"""Weights of classes and labels: balance by hand, and numbers that are no weights."""

from collections.abc import Sequence

import pytest

from perceiver.objectives.supervised.class_weights import weights_of_classes, weights_of_positives


def test_weights_of_classes() -> None:
    assert weights_of_classes(None, [1, 2], 2) is None
    for given in ([0.0, 2.0], [1.0, 0.0]):
        weights = weights_of_classes(given, None, 2)
        assert weights is not None
        assert weights.tolist() == given
    balanced = weights_of_classes("balanced", [1, 0, 3], 3)
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([4 / (2 * 1), 0.0, 4 / (2 * 3)])


def test_weights_of_positives() -> None:
    assert weights_of_positives(None, [1], 2, 1) is None
    weights = weights_of_positives([0.5, 2.0], None, None, 2)
    assert weights is not None
    assert weights.tolist() == [0.5, 2.0]
    balanced = weights_of_positives("balanced", [1, 4, 0, 5, 2], 5, 5)
    assert balanced is not None
    assert balanced.tolist() == [4.0, 0.25, 1.0, 1.0, 1.5], "never and always positive: 1"


@pytest.mark.parametrize(
    ("counts", "num_samples"), [(None, 3), ([1, 2], None), ([1], 3), (None, None)], ids=["counts", "samples", "few", "both"]
)
def test_balance_needs_counts(counts: Sequence[int] | None, num_samples: int | None) -> None:
    with pytest.raises(ValueError, match=r"task\.positive_weights=balanced: expected positive_counts"):
        weights_of_positives("balanced", counts, num_samples, 2)


@pytest.mark.parametrize("given", [[1.0, -1.0], [1.0, float("nan")], [1.0], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_numbers_that_are_no_weights(given: list[float]) -> None:
    with pytest.raises(ValueError, match=r"task\.class_weights: expected 2 numbers of at least 0"):
        weights_of_classes(given, None, 2)
    with pytest.raises(ValueError, match=r"task\.positive_weights: expected 2 numbers above 0"):
        weights_of_positives(given, None, None, 2)


@pytest.mark.usefixtures("unchecked")
def test_words_that_are_no_weights() -> None:
    with pytest.raises(ValueError, match=r"task\.positive_weights: expected null, balanced or a list .* 'equal'"):
        weights_of_positives("equal", [1], 2, 1)
