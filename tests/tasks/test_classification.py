"""The classification task around a linear model."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from perceiver.batch import Batch, Collate, Sample
from perceiver.tasks.classification import ClassificationTask
from perceiver.tasks.schedules import warmup_cosine


class LinearModel(nn.Module):
    """Classes from the mean of points."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.map(inputs["points"].mean(dim=1))
        return logits


def task(**arguments: Any) -> ClassificationTask:
    settings: dict[str, Any] = {
        "model": LinearModel(),
        "optimizer": partial(torch.optim.SGD, lr=0.5),
        "num_classes": 3,
        **arguments,
    }
    return ClassificationTask(**settings)


def samples(count: int = 24) -> list[Sample]:
    """Three classes of points, one per corner."""
    corners = torch.eye(3)
    return [
        Sample(inputs={"points": corners[n % 3] + 0.1 * torch.randn(4, 3)}, target=n % 3, id=f"sample/{n}")
        for n in range(count)
    ]


def loader(items: list[Sample]) -> DataLoader[Any]:
    return DataLoader(items, batch_size=8, collate_fn=Collate(modalities={"points": {"kind": "points"}}))  # type: ignore[arg-type]


def trainer(**arguments: Any) -> Trainer:
    return Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_learns_and_logs() -> None:
    learner = task(scheduler=partial(warmup_cosine, warmup_fraction=0.0))
    data = loader(samples())
    runner = trainer()
    runner.fit(learner, data, data)
    logged = dict(runner.callback_metrics)
    assert set(logged) == {
        "train/loss",
        "train/accuracy",
        "train/learning_rate",
        "val/loss",
        "val/accuracy",
    }
    assert logged["val/accuracy"] == 1.0
    assert logged["train/learning_rate"] < 0.01, "the schedule advances with every step"
    assert learner.val_confusion.compute().tolist() == [[8, 0, 0], [0, 8, 0], [0, 0, 8]]

    [result] = runner.test(learner, data, verbose=False)
    batch = next(iter(loader_all := DataLoader(data.dataset, batch_size=24, collate_fn=data.collate_fn)))
    assert len(loader_all) == 1
    with torch.no_grad():
        expected = F.cross_entropy(learner(batch), batch.target)
    assert result["test/loss"] == pytest.approx(float(expected), rel=1e-5), "mean over samples"
    assert result["test/accuracy"] == 1.0


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_label_smoothing_is_for_training_only() -> None:
    learner = task(label_smoothing=0.3, optimizer=partial(torch.optim.SGD, lr=0.0))
    items = samples()
    data = loader(items)
    runner = trainer()
    runner.fit(learner, data, data)
    batch = data.collate_fn(items)
    with torch.no_grad():
        logits = learner(batch)
    logged = runner.callback_metrics
    plain, smoothed = (float(F.cross_entropy(logits, batch.target, label_smoothing=s)) for s in (0.0, 0.3))
    assert float(logged["val/loss"]) == pytest.approx(plain, rel=1e-5)
    assert float(logged["train/loss"]) == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_target_out_of_range_names_its_sample(wrong: int) -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=torch.tensor([0, wrong]), ids=["good", "bad/7"])
    with pytest.raises(ValueError, match=rf"'bad/7'.*0 to 2, got {wrong}"):
        task().on_before_batch_transfer(batch, 0)


def test_a_missing_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labels"):
        task().on_before_batch_transfer(Batch(inputs={"points": torch.zeros(2, 1, 3)}), 0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*no `val_dataloader`.*")
def test_a_loss_that_is_not_finite_stops_training() -> None:
    learner = task(optimizer=partial(torch.optim.SGD, lr=0.125))
    with torch.no_grad():
        next(learner.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, step 1, .* 0\.125 \(samples sample/.*optimizer\.lr"):
        trainer().fit(learner, loader(samples()))


def test_checkpoints_carry_what_rebuilds_the_model() -> None:
    checkpoint: dict[str, Any] = {}
    task(checkpoint={"format": 1, "config": {}}).on_save_checkpoint(checkpoint)
    assert checkpoint == {"perceiver": {"format": 1, "config": {}}}
    learner = task()
    assert all(name.startswith("model.") for name in learner.state_dict()), "metrics are no weights"
    assert not learner.hparams


@pytest.mark.parametrize(("argument", "value"), [("num_classes", 1), ("label_smoothing", 1.0), ("label_smoothing", -0.1)])
def test_arguments_are_checked(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"task\.{argument}"):
        task(**{argument: value})
