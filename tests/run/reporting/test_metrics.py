"""metrics.json and the best epoch."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from perceiver.objectives import Objective, classification, multilabel, regression
from perceiver.run.reporting.metrics import BestEpoch, require_defined, require_known, write_metrics
from perceiver.samples.batch import Batch
from perceiver.training import Task


def pass_through(best: BestEpoch, scores: list[float], mode: str = "max", monitor: str = "val/accuracy") -> None:
    for epoch, score in enumerate(scores):
        trainer = Mock(
            spec=Trainer,
            sanity_checking=False,
            checkpoint_callbacks=[ModelCheckpoint(), ModelCheckpoint(monitor=monitor, mode=mode)],
            callback_metrics={
                monitor: torch.tensor(score),
                "val/epoch": torch.tensor(epoch),
                "train/loss": torch.tensor(1.0),
            },
            current_epoch=epoch,
        )
        best.on_validation_end(trainer, LightningModule())


@pytest.mark.parametrize(("scores", "mode", "epoch"), [([0.1, 0.7, 0.7, 0.3], "max", 1), ([0.5, 0.2, 0.3], "min", 1)])
def test_the_first_of_the_best_counts(scores: list[float], mode: str, epoch: int) -> None:
    best = BestEpoch()
    pass_through(best, scores, mode)
    assert best.epoch == epoch
    assert best.score == pytest.approx(scores[epoch])
    assert best.metrics["val/epoch"] == epoch
    assert "train/loss" not in best.metrics


def test_state_survives_a_checkpoint(tmp_path: Path) -> None:
    best = BestEpoch()
    pass_through(best, [0.1, 0.9])
    torch.save(best.state_dict(), tmp_path / "state")
    again = BestEpoch()
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    pass_through(again, [0.5])
    assert (again.epoch, again.metrics) == (best.epoch, best.metrics)


def test_nothing_without_validation() -> None:
    best = BestEpoch()
    best.on_validation_end(Trainer(logger=False, enable_progress_bar=False), LightningModule())
    assert best.score is None


def test_earlier_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, {"val/accuracy": 0.5, "test/accuracy": 0.4})
    write_metrics(path, {"test/accuracy": 0.6})
    assert json.loads(path.read_text()) == {"val/accuracy": 0.5, "test/accuracy": 0.6}


def test_a_lost_score_is_not_the_best() -> None:
    best = BestEpoch()
    pass_through(best, [float("nan"), 0.3, float("nan"), 0.2])
    assert (best.epoch, best.score) == (1, pytest.approx(0.3))


class Unranked:
    """Stands in for a trainer whose checkpoints go by R2."""

    limit_val_batches: float = 1.0
    callbacks = (ModelCheckpoint(monitor="val/r2"), ModelCheckpoint())


@pytest.mark.usefixtures("unchecked")
def test_a_metric_that_the_validation_data_does_not_define() -> None:
    task = Task(model=torch.nn.Linear(1, 1), objective=regression(mean=[0.0], std=[1.0]), optimizer=torch.optim.SGD)
    batches = [Batch(inputs={"x": torch.zeros(1, 1)}, target=torch.tensor([value])) for value in (1.0, 1.0, 2.0)]
    state = torch.get_rng_state()
    require_defined(Unranked(), task, batches)
    require_defined(Unranked(), task, None)
    for limit in (2, 0.7):
        trainer = Unranked()
        trainer.limit_val_batches = limit
        with pytest.raises(ValueError, match=r"monitor.name=val/r2: .* targets are all equal.*monitor.name=val/loss"):
            require_defined(trainer, task, batches)
    assert torch.equal(torch.get_rng_state(), state)


def fitted(objective: Objective, *callbacks: Callback) -> tuple[Trainer, Task]:
    trainer = Trainer(
        callbacks=list(callbacks), logger=False, enable_progress_bar=False, enable_checkpointing=bool(callbacks)
    )
    task = Task(model=torch.nn.Linear(1, 1), objective=objective, optimizer=torch.optim.SGD)
    return trainer, task


@pytest.mark.usefixtures("unchecked")  # any module serves as a model
@pytest.mark.parametrize("callback", [ModelCheckpoint, EarlyStopping])
def test_a_misspelled_metric_is_refused_before_training(callback: Any) -> None:
    objective = classification(num_classes=2, balanced_accuracy=True)
    message = (
        f"monitor.name=val/acuracy (or monitor of {callback.__name__}): there is no such metric. Did you mean val/accuracy? "
        "This run logs train/loss, train/accuracy, train/learning_rate, val/loss, val/accuracy, val/balanced_accuracy."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        require_known(*fitted(objective, callback(monitor="val/acuracy")))
    for name in ("val/accuracy", "val/balanced_accuracy", "train/loss", "train/learning_rate"):
        require_known(*fitted(objective, callback(monitor=name)))
    require_known(*fitted(objective, ModelCheckpoint()))


@pytest.mark.usefixtures("unchecked")
def test_another_packages_callback_may_log_any_metric() -> None:
    class Own(Callback):
        pass

    require_known(*fitted(classification(num_classes=2), ModelCheckpoint(monitor="val/mine"), Own()))


@pytest.mark.usefixtures("unchecked")
def test_early_stopping_needs_validation() -> None:
    trainer, task = fitted(classification(num_classes=2), EarlyStopping(monitor="val/loss"))
    trainer.limit_val_batches = 0
    with pytest.raises(ValueError, match=r"EarlyStopping stops by val/loss, but trainer.limit_val_batches=0"):
        require_known(trainer, task)


@pytest.mark.parametrize(
    ("objective", "outputs", "target"),
    [
        (classification(num_classes=2, balanced_accuracy=True), torch.randn(4, 2), torch.tensor([0, 1, 0, 1])),
        (multilabel(num_classes=2), torch.randn(4, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])),
        (regression(mean=[0.0], std=[1.0]), torch.randn(4, 1), torch.randn(4, 1)),
    ],
    ids=["classes", "labels", "values"],
)
def test_objectives_know_the_names_of_their_results(objective: Any, outputs: torch.Tensor, target: torch.Tensor) -> None:
    metrics = objective.criterion.metrics()
    objective.criterion.update(metrics, outputs, target)
    assert list(objective.results(metrics)) == objective.result_names(metrics)
