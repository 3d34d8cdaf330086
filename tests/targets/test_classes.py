"""What outputs mean, by the kind of target in the spec."""

import math

import numpy as np
import pytest
import torch

from perceiver.targets.classes import ClassTarget, classes_target
from perceiver.targets.kinds import target_of
from perceiver.targets.labels import LabelsTarget, labels_target
from perceiver.targets.values import ValuesTarget, values_target


def test_classes_are_a_softmax() -> None:
    target = target_of({"target": {"kind": "classes", "names": ["cat", "dog"]}})
    assert target == ClassTarget(names=["cat", "dog"])
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 0.0]])
    first, second = target.predict(logits)
    assert (first.label, second.label) == ("dog", "cat")
    assert first.probabilities == pytest.approx({"cat": 0.25, "dog": 0.75})
    assert first.probability == first.probabilities["dog"]
    wrong, right = target.compare(logits, torch.tensor([0, 0]))
    assert (wrong.correct, right.correct) == (False, True)
    assert (wrong.predicted, wrong.true) == ("dog (75%)", "cat")
    assert wrong.loss == pytest.approx(0.75)
    assert wrong.loss > right.loss
    shares = target.compare(logits, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    assert [one.true for one in shares] == ["cat", "dog"]


def test_labels_are_apart_from_one_another() -> None:
    target = target_of({"target": {"kind": "labels", "names": ["a", "b", "c"]}})
    assert isinstance(target, LabelsTarget)
    logits = torch.tensor([[math.log(3.0), -1.0, 9.0], [-9.0, -9.0, -0.1]])
    first, second = target.predict(logits)
    assert first.labels == ("a", "c")
    assert first.probabilities["a"] == pytest.approx(0.75)
    assert second.labels == ()
    strict = target_of({"target": {"kind": "labels", "names": ["a", "b", "c"], "threshold": 0.9}})
    assert strict is not None
    assert strict.predict(logits)[0].labels == ("c",)
    right, wrong = target.compare(logits, torch.tensor([[True, False, True], [False, False, True]]))
    assert (right.correct, right.true, right.predicted) == (True, "a, c", "a, c")
    assert (wrong.correct, wrong.true, wrong.predicted) == (False, "c", "none")
    assert wrong.loss == pytest.approx(1 - 1 / (1 + math.exp(0.1)))


def test_values_are_in_their_own_units() -> None:
    training = torch.tensor([[1e6, 0.001, 5.0], [1e6 + 2, 0.003, 5.0]])
    facts = values_target(names=["big", "small", "constant"], training=training)
    assert facts["std"] == pytest.approx([1.0, 0.001, 1.0], rel=1e-4)
    target = target_of({"target": facts})
    assert isinstance(target, ValuesTarget)
    [one] = target.predict(torch.tensor([[0.5, -1.0, 2.0]]))
    assert one.values == pytest.approx({"big": 1e6 + 1.5, "small": 0.001, "constant": 7.0}, rel=1e-9, abs=1e-6)
    [compared] = target.compare(torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[1e6 + 1, 0.002, 5.0]]))
    assert compared.correct is None
    assert compared.loss == pytest.approx((0.5 + 1 + 2) / 3, rel=1e-3)


def test_statistics_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(3.0, 7.0, (50, 2))
    facts = values_target(names=["x", "y"], training=torch.from_numpy(values))
    np.testing.assert_allclose(facts["mean"], values.mean(axis=0))
    np.testing.assert_allclose(facts["std"], values.std(axis=0))
    facts = labels_target(names=["x", "y"], training=torch.from_numpy(values > 3.0))
    assert facts["positives"] == (values > 3.0).sum(axis=0).tolist()
    assert facts["samples"] == 50


def test_what_is_not_known() -> None:
    for spec in (None, {}, {"target": None}, {"target": {"kind": "boxes"}}):
        assert target_of(spec) is None
    with pytest.raises(ValueError, match="one for each of the 2 columns"):
        labels_target(names=["a"], training=torch.ones(3, 2))
    with pytest.raises(ValueError, match="finite values"):
        values_target(names=["a"], training=torch.full((3, 1), float("nan")))


def test_cells_of_a_table_of_predictions() -> None:
    [one] = ClassTarget(names=["cat", "dog"]).predict(torch.tensor([[0.0, math.log(3.0)]]))
    assert one.cells() == {"prediction": "dog", "probability_cat": "0.25", "probability_dog": "0.75"}
    [many] = LabelsTarget(names=["a", "b"], threshold=0.4).predict(torch.tensor([[math.log(3.0), 0.0]]))
    assert many.cells() == {"prediction": "a;b", "probability_a": "0.75", "probability_b": "0.5"}
    [number] = ValuesTarget(names=["x"], mean=[1 / 3], std=[1.0]).predict(torch.tensor([[0.0]]))
    assert number.cells() == {"prediction_x": repr(1 / 3)}


def test_thresholds() -> None:
    """A probability at the threshold is a label; a target needs more than a half, as in the metrics."""
    target = LabelsTarget(names=["a", "b"])
    [one] = target.predict(torch.tensor([[0.0, -1e-3]]))
    assert one.labels == ("a",)
    [compared] = target.compare(torch.tensor([[0.0, -9.0]]), torch.tensor([[0.5, 0.6]]))
    assert compared.true == "b"
    assert compared.loss == pytest.approx(0.6, abs=1e-3), "the worst label"
    entry = labels_target(names=["a", "b"], training=torch.tensor([[0.5, 0.6], [1.0, 0.0]]))
    assert entry == {"kind": "labels", "names": ["a", "b"], "positives": [1, 1], "samples": 2}


def test_comparisons_of_values_are_texts() -> None:
    target = ValuesTarget(names=["x", "y"], mean=[0.0, 10.0], std=[1.0, 4.0])
    [compared] = target.compare(torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 12.0]]))
    assert (compared.predicted, compared.true, compared.loss) == ("1, 14", "3, 12", pytest.approx((2 + 0.5) / 2))
    [single] = ValuesTarget(names=["x"], mean=[0.0], std=[2.0]).compare(torch.tensor([[1.0]]), torch.tensor([5.0]))
    assert (single.predicted, single.true, single.loss) == ("2", "5", 1.5)


def test_values_that_vary_by_rounding_are_constant() -> None:
    training = torch.tensor([[1.0, 1.0], [1.0 + 1e-13, 1.0 + 1e-11]], dtype=torch.float64)
    entry = values_target(names=["x", "y"], training=training)
    assert entry["kind"] == "values"
    assert entry["names"] == ["x", "y"]
    assert entry["std"] == [1.0, pytest.approx(5e-12, rel=1e-3)]
    large = torch.tensor([[1e3, 0.0], [1e3 + 1e-10, 0.0]], dtype=torch.float64)
    assert values_target(names=["x", "y"], training=large)["std"] == [1.0, 1.0]
    for wrong in (torch.ones(0, 2), torch.tensor([[1.0, float("inf")]])):
        with pytest.raises(ValueError, match=r"values_target\.training: expected one or more rows of finite values"):
            values_target(names=["x", "y"], training=wrong)
    with pytest.raises(ValueError, match="names: expected one for each of the 2 columns of training, got 1"):
        values_target(names=["x"], training=training)


def test_entries_of_the_spec() -> None:
    entry = classes_target(names=("cat", "dog"), counts=(3, 4))
    assert entry == {"kind": "classes", "names": ["cat", "dog"], "counts": [3, 4]}
    assert target_of({"target": entry}) == ClassTarget(names=["cat", "dog"])
