"""Objectives without Lightning: a plain loop, constants under every precision, and results that a split does not define."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from perceiver.objectives import (
    Objective,
    classification,
    dense_regression,
    multilabel,
    regression,
    segmentation,
)
from perceiver.samples.batch import Batch


class Linear(nn.Module):
    """Classes of digits from their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(64, 10)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.map(inputs["image"].flatten(1))
        return logits


def digits(rows: slice) -> list[Batch]:
    images, labels = load_digits(return_X_y=True)
    pixels, target = torch.from_numpy(images[rows]).float() / 16, torch.from_numpy(labels[rows])
    return [Batch(inputs={"image": x}, target=y) for x, y in zip(pixels.split(64), target.split(64), strict=True)]


def test_a_plain_loop_learns_digits() -> None:
    """As the documentation of the package has it."""
    torch.manual_seed(0)
    model, objective = Linear(), classification(num_classes=10, label_smoothing=0.1)
    training, validation = digits(slice(0, 1400)), digits(slice(1400, None))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(10):
        model.train()
        for batch in training:
            loss = objective.loss(model, objective.check(model, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    metrics = objective.metrics(model.eval())
    with torch.no_grad():
        for number, batch in enumerate(validation):
            objective.evaluate(model, objective.check(model, batch), metrics, number=number)
    results = objective.results(metrics)
    assert set(results) == {"loss", "accuracy"}
    assert float(results["accuracy"]) > 0.87, "a converged linear classifier reaches 0.9 here"
    right = [float((model(one.inputs, {}).argmax(dim=1) == one.target).sum()) for one in validation]
    assert float(results["accuracy"]) == pytest.approx(sum(right) / 397)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (classification(num_classes=2, class_weights=[1000.5, 1.0]), "class_weights"),
        (segmentation(num_classes=2, class_weights=[1000.5, 1.0]), "class_weights"),
        (multilabel(num_classes=2, positive_weights=[1000.5, 1.0]), "positive_weights"),
        (dense_regression(mean=[1000.5], std=[1.0]), "mean"),
        (dense_regression(mean=[0.0], std=[1000.5]), "std"),
    ],
)
def test_constants_keep_their_digits(objective: Any, name: str) -> None:
    outer = nn.ModuleDict({"objective": objective, "other": nn.Linear(1, 1)}).to(torch.bfloat16)
    assert outer["other"].weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    constant = getattr(objective.criterion, name)
    assert constant.dtype == torch.float32
    assert not objective.state_dict(), "not saved"
    assert float(constant[0]) == 1000.5
    assert outer.to("meta")["objective"].criterion.get_buffer(name).device.type == "meta"  # type: ignore[union-attr, operator]


class Counted:
    """Batches of targets, and how many were asked for."""

    def __init__(self, *targets: Tensor) -> None:
        self.targets, self.read = targets, 0

    def __iter__(self) -> Iterator[Batch]:
        for target in self.targets:
            self.read += 1
            yield Batch(inputs={"x": torch.zeros(len(target), 1)}, target=target)


NONE, FIRST, BOTH = torch.zeros(3, 2), torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("objective", "name", "targets", "read", "words"),
    [
        (multilabel(num_classes=2), "average_precision", [NONE, NONE], 2, "no label with a positive sample"),
        (multilabel(num_classes=2), "average_precision", [NONE, FIRST, NONE], 2, None),
        (multilabel(num_classes=2), "auroc", [FIRST, FIRST], 2, "no label with both positive and negative samples"),
        (multilabel(num_classes=2), "auroc", [FIRST, NONE, NONE], 2, None),
        (multilabel(num_classes=2), "auroc", [BOTH, NONE], 1, None),
        (multilabel(num_classes=2), "loss", [NONE], 0, None),
        (regression(mean=[0.0], std=[1.0]), "r2", [torch.tensor([4.0])], 1, "all equal, or it has only one sample"),
        (regression(mean=[0.0], std=[1.0]), "r2", [torch.tensor([4.0]), torch.tensor([4.0])], 2, "all equal"),
        (regression(mean=[0.0], std=[1.0]), "r2", [torch.tensor([4.0]), torch.tensor([5.0]), NONE], 2, None),
        (regression(mean=[0.0], std=[1.0]), "mae", [torch.tensor([4.0])], 0, None),
        (classification(num_classes=2), "accuracy", [torch.tensor([0])], 0, None),
    ],
)
def test_what_a_split_does_not_define(
    objective: Objective, name: str, targets: list[Tensor], read: int, words: str | None
) -> None:
    batches = Counted(*targets)
    reason = objective.why_undefined(name, batches)
    assert (words is None and reason is None) or (reason is not None and str(words) in reason)
    assert batches.read == read, "no more than needed"


def test_a_split_without_a_valid_pixel() -> None:
    def batch(valid: bool) -> Batch:
        mask = torch.full((1, 2, 2), valid)
        return Batch(inputs={"image": torch.zeros(1, 1, 2, 2)}, target=torch.zeros(1, 2, 2).long(), target_mask=mask)

    objective = segmentation(num_classes=2)
    assert objective.why_undefined("mean_iou", [batch(False), batch(True)]) is None
    assert objective.why_undefined("mean_iou", [batch(False)]) == "it has no valid pixel"
