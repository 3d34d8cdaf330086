"""What objectives share: samples without any modality are found before anything is computed."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from perceiver.objectives import Objective, classification, dense_regression, multilabel, regression, segmentation
from perceiver.objectives.checks import check_class_settings, check_classes, check_statistics, require_modality
from perceiver.samples.batch import Batch
from perceiver.training import Task

INPUTS: dict[str, Any] = {
    "image": torch.zeros(3, 1, 2, 2),
    "sound": torch.zeros(3, 1, 4),
    "table": {"numbers": torch.zeros(3, 2), "present": torch.ones(3, 2) > 0},
}
SOME = torch.tensor([True, False, True])


def masks(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The second sample has nothing but what `changes` give it."""
    elements = SOME[:, None].expand(3, 4)
    return {"image": SOME[:, None, None].expand(3, 2, 2), "sound": elements, "table": SOME, **changes}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"image": SOME},
        {"sound": ~SOME, "image": SOME},
        masks(sound=torch.tensor([[False] * 4, [False, False, True, False], [False] * 4])),
        masks(table=torch.tensor([False, True, True])),
    ],
)
def test_every_sample_has_something(given: dict[str, torch.Tensor]) -> None:
    require_modality(Batch(inputs=INPUTS, masks=given))


def test_a_sample_without_any_modality_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"sample 'b/2': expected a valid element in at least one of \['image', 'sound', 'table'\]"
    ):
        require_modality(Batch(inputs=INPUTS, masks=masks(), ids=["a/1", "b/2", "c/3"]))
    with pytest.raises(ValueError, match="sample 'number 1 of its batch'"):
        require_modality(Batch(inputs={"image": INPUTS["image"]}, masks={"image": SOME}))


def test_a_table_without_cells_is_none() -> None:
    table = {"numbers": torch.zeros(3, 2), "present": torch.tensor([[True, False], [False, True], [False, False]])}
    with pytest.raises(ValueError, match="sample 'c/3'"):
        require_modality(Batch(inputs={"table": table}, ids=["a/1", "b/2", "c/3"]))


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        (classification(num_classes=3), torch.tensor([0, 1, 2])),
        (multilabel(num_classes=3), torch.eye(3)),
        (regression(mean=[0.0], std=[1.0]), torch.zeros(3, 1)),
    ],
)
def test_batches_are_checked_before_the_transfer(objective: Objective, target: torch.Tensor) -> None:
    learner = Task(model=nn.Linear(1, 1), objective=objective, optimizer=torch.optim.SGD)
    batch = Batch(inputs=INPUTS, masks=masks(), target=target, ids=["a/1", "b/2", "c/3"])
    with pytest.raises(ValueError, match="sample 'b/2': expected a valid element"):
        learner.on_before_batch_transfer(batch, 0)
    batch.masks.pop("table")
    learner.on_before_batch_transfer(batch, 0)


def test_boundaries_of_settings() -> None:
    check_class_settings(num_classes=2, label_smoothing=0.0)
    for classes, smoothing in ((1, 0.0), (2, 1.0), (2, -0.01)):
        with pytest.raises(ValueError, match=r"task\.(num_classes|label_smoothing): expected"):
            check_class_settings(num_classes=classes, label_smoothing=smoothing)
    check_statistics([0.0], [1e-9])
    wrong: list[tuple[list[float], list[float]]] = [
        *(
            ([0.0], [0.0]),
            ([0.0], [-1.0]),
            ([], []),
            ([0.0], []),
            ([0.0, 0.0], [1.0]),
            ([0.0], [math.inf]),
            ([math.nan], [1.0]),
        ),
    ]
    for mean, std in wrong:
        with pytest.raises(ValueError, match=r"task\.mean, task\.std: expected a finite mean"):
            check_statistics(mean, std)


def test_class_numbers_at_the_boundaries() -> None:
    batch = Batch(inputs=INPUTS, target=torch.tensor([0, 1, 2]))
    check_classes(batch, num_classes=3)
    with pytest.raises(ValueError, match="sample 'number 2 of its batch': expected a class number from 0 to 1, got 2"):
        check_classes(batch, num_classes=2)
    with pytest.raises(ValueError, match=r"one class number per sample \(3,\), got torch.float32 \(3,\)"):
        check_classes(Batch(inputs=INPUTS, target=torch.zeros(3)), num_classes=2)


def test_class_probabilities_sum_to_one_within_a_thousandth() -> None:
    objective = classification(num_classes=2)
    batch = Batch(inputs=INPUTS, target=torch.tensor([[0.5, 0.5009], [0.0, 1.0], [0.5, 0.4991]]))
    assert objective.check(nn.Identity(), batch).target is not None
    for wrong in ([0.5, 0.5015], [0.5, 0.4985]):
        batch = Batch(inputs=INPUTS, target=torch.tensor([[0.0, 1.0], wrong, [0.0, 1.0]]), ids=["a", "b", "c"])
        with pytest.raises(ValueError, match="target of sample 'b': expected class probabilities"):
            objective.check(nn.Identity(), batch)


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (classification(num_classes=3), ["loss", "accuracy"]),
        (classification(num_classes=3, balanced_accuracy=True), ["loss", "accuracy", "balanced_accuracy"]),
        (multilabel(num_classes=3), ["loss", "average_precision", "auroc"]),
        (regression(mean=[0.0], std=[1.0]), ["loss", "mae", "r2"]),
        (segmentation(num_classes=2, class_names=["a", "b"]), ["loss", "mean_iou", "pixel_accuracy", "iou/a", "iou/b"]),
        (dense_regression(mean=[0.0], std=[1.0]), ["loss", "epe"]),
    ],
)
def test_names_of_results_are_known_before_any(objective: Objective, names: list[str]) -> None:
    assert objective.result_names(objective.metrics(nn.Identity())) == names
    assert list(objective.training_metrics()) == (["accuracy"] if names[1] == "accuracy" else [])


def test_single_labels_and_values() -> None:
    """One label per sample has a column; one value per sample may lack it."""
    batch = Batch(inputs=INPUTS, target=torch.tensor([[0.5], [0.0], [1.0]]))
    checked = multilabel(num_classes=1).check(nn.Identity(), batch).target
    assert checked is not None
    assert checked.tolist() == [[0.5], [0.0], [1.0]]
    found = regression(mean=[1.0], std=[2.0]).check(nn.Identity(), Batch(inputs=INPUTS, target=torch.tensor([1.0, 3, 5])))
    assert found.target is not None
    assert found.target.tolist() == [[0.0], [1.0], [2.0]]
    reason = multilabel(num_classes=1).why_undefined(
        "average_precision", [Batch(inputs=INPUTS, target=torch.full((3, 1), 0.5))]
    )
    assert reason == "it has no label with a positive sample", "a half is not positive"


def test_leading_samples_count() -> None:
    """The rest of a batch are repeats; a batch of repeats alone changes nothing."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    for objective, target in (
        (classification(num_classes=2), torch.tensor([0, 0, 1])),
        (multilabel(num_classes=2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])),
        (regression(mean=[0.0, 0.0], std=[1.0, 2.0]), torch.tensor([[1.0, 2.0], [3.0, -1.0], [9.0, 9.0]])),
    ):
        found = []
        for counts in ((3,), (3, 0), (2,), (None,)):
            metrics = objective.metrics(nn.Identity())
            for count in counts:
                batch = Batch(inputs={"x": logits}, target=target)
                objective.evaluate(Given(), batch, metrics, count=count)
            found.append({name: float(value) for name, value in objective.results(metrics).items()})
        assert found[0] == found[1] == found[3] != found[2]


class Given(nn.Module):
    """Outputs that are given."""

    def forward(self, inputs: dict[str, Any], masks: dict[str, Any]) -> Any:
        return inputs["x"]
