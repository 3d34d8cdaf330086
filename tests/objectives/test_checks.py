"""What objectives share: samples without any modality are found before anything is computed."""

from typing import Any

import pytest
import torch
from torch import nn

from perceiver.batch import Batch
from perceiver.objectives import Objective, classification, multilabel, regression
from perceiver.objectives.checks import require_modality
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
