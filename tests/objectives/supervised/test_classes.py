"""The classification task around a linear model."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from perceiver.objectives import classification
from perceiver.objectives.supervised.classes import Classes
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.training import Task
from perceiver.training.schedules import warmup_cosine


class LinearModel(nn.Module):
    """Classes from the mean of points."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.map(inputs["points"].mean(dim=1))
        return logits


class Through(nn.Module):
    """Logits that are given."""

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        return inputs["points"]


def task(model: nn.Module | None = None, lr: float = 0.5, scheduler: Any = None, **settings: Any) -> Task:
    objective = classification(**{"num_classes": 3, **settings})
    optimizer = partial(torch.optim.SGD, lr=lr)
    return Task(model=model or LinearModel(), objective=objective, optimizer=optimizer, scheduler=scheduler)


def criterion(**settings: Any) -> Classes:
    made = classification(**{"num_classes": 3, **settings}).criterion
    assert isinstance(made, Classes)
    return made


def logits_of(learner: Task, batch: Batch) -> Tensor:
    with torch.no_grad():
        logits: Tensor = learner.model(batch.inputs, batch.masks)
    return logits


def samples(count: int = 24) -> list[Sample]:
    """Three classes of points, one per corner."""
    corners = torch.eye(3)
    return [
        Sample(inputs={"points": corners[n % 3] + 0.1 * torch.randn(4, 3)}, target=n % 3, id=f"sample/{n}")
        for n in range(count)
    ]


def loader(items: list[Sample] | Dataset[Sample]) -> DataLoader[Any]:
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
    assert learner.confusion("val").tolist() == [[8, 0, 0], [0, 8, 0], [0, 0, 8]]

    [result] = runner.test(learner, data, verbose=False)
    batch = next(iter(loader_all := DataLoader(data.dataset, batch_size=24, collate_fn=data.collate_fn)))
    assert len(loader_all) == 1
    expected = F.cross_entropy(logits_of(learner, batch), batch.target)
    assert result["test/loss"] == pytest.approx(float(expected), rel=1e-5), "mean over samples"
    assert result["test/accuracy"] == 1.0


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_label_smoothing_is_for_training_only() -> None:
    learner = task(label_smoothing=0.3, lr=0.0)
    items = samples()
    data = loader(items)
    runner = trainer()
    runner.fit(learner, data, data)
    batch = data.collate_fn(items)
    logits = logits_of(learner, batch)
    logged = runner.callback_metrics
    plain, smoothed = (float(F.cross_entropy(logits, batch.target, label_smoothing=s)) for s in (0.0, 0.3))
    assert float(logged["val/loss"]) == pytest.approx(plain, rel=1e-5)
    assert float(logged["train/loss"]) == pytest.approx(smoothed, rel=1e-5)


def mixed_in_halves(batch: Batch) -> Batch:
    """Every target three quarters its own class and one quarter the next."""
    assert batch.target is not None
    hot = F.one_hot(batch.target, 3).float()
    return Batch(inputs=batch.inputs, masks=batch.masks, target=0.75 * hot + 0.25 * hot.roll(1, dims=1), ids=batch.ids)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_mixed_targets_reach_the_loss_and_training_only() -> None:
    learner = task(mix=mixed_in_halves, label_smoothing=0.2, lr=0.0)
    items = samples()
    data = loader(items)
    runner = trainer()
    runner.fit(learner, data, data)
    batch = data.collate_fn(items)
    logits = logits_of(learner, batch)
    shares = mixed_in_halves(batch).target
    assert shares is not None
    smoothed = 0.8 * shares + 0.2 / 3
    logged = runner.callback_metrics
    assert float(logged["train/loss"]) == pytest.approx(float(-(smoothed * logits.log_softmax(1)).sum(1).mean()), rel=1e-5)
    assert float(logged["val/loss"]) == pytest.approx(float(F.cross_entropy(logits, batch.target)), rel=1e-5)
    right = float((logits.argmax(1) == batch.target).float().mean())
    assert float(logged["train/accuracy"]) == pytest.approx(right), "by the larger share, which is the own class"
    assert float(logged["val/accuracy"]) == pytest.approx(right)


def test_shares_of_the_data_itself_are_targets_too() -> None:
    shares = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    batch = Batch(inputs={"points": torch.rand(2, 4, 3)}, target=shares.double())
    target = task().on_before_batch_transfer(batch, 0).target
    assert target is not None
    assert target.dtype == torch.float32
    torch.testing.assert_close(target, shares)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[0.5, 0.5, 0.0], [0.5, 0.6, 0.0]], r"'bad/7': expected class probabilities .* got \[0\.5"),
        ([[0.5, 0.5, 0.0], [1.5, -0.5, 0.0]], r"'bad/7': expected class probabilities .* got \[1\.5"),
        ([[0.5, 0.5, 0.0], [float("nan"), 0.5, 0.5]], r"'bad/7': expected class probabilities .* got \[nan"),
        ([[0.5, 0.5], [0.5, 0.5]], r"\(B, 3\), got floating point of shape \(2, 2\)"),
        ([0.5, 0.5], r"\(B, 3\), got floating point of shape \(2,\)"),
    ],
)
def test_shares_that_are_none(target: list[Any], message: str) -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=torch.tensor(target), ids=["good", "bad/7"])
    with pytest.raises(ValueError, match=message):
        task().on_before_batch_transfer(batch, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_weights_weigh_the_training_loss(smoothing: float) -> None:
    weights = [3.0, 1.0, 0.5]
    objective = classification(num_classes=3, class_weights=weights, label_smoothing=smoothing)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        inputs = {"points": logits}
        return objective.loss(Through(), Batch(inputs=inputs, target=target))

    logits, target = torch.randn(20, 3), torch.arange(20) % 3
    expected = F.cross_entropy(logits, target, weight=torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, target), expected)
    hot = F.one_hot(target, 3).float()
    torch.testing.assert_close(loss(logits, hot), expected, msg="shares of one class are that class")
    shares = 0.5 * hot + 0.5 * hot.roll(1, dims=0)
    smoothed = (1 - smoothing) * shares + smoothing / 3
    by_hand = -(smoothed * torch.tensor(weights) * logits.log_softmax(1)).sum() / (shares @ torch.tensor(weights)).sum()
    torch.testing.assert_close(loss(logits, shares), by_hand)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    counts = [50, 5, 20]
    labels = np.repeat([0, 1, 2], counts)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    balanced = criterion(class_weights="balanced", class_counts=counts)
    assert balanced.class_weights is not None
    np.testing.assert_allclose(balanced.class_weights.numpy(), expected, rtol=1e-6)
    assert not balanced.state_dict()
    absent = criterion(class_weights="balanced", class_counts=[50, 0, 20]).class_weights
    assert absent is not None
    assert absent[1] == 0
    np.testing.assert_allclose(absent.numpy()[[0, 2]], [70 / 100, 70 / 40], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": "balanced"}, "=balanced: expected class_counts, .* got None"),
        ({"class_weights": "balanced", "class_counts": [1, 2]}, r"of the 3 classes, got \[1, 2\]"),
        ({"class_weights": [1.0, 2.0]}, r"expected 3 numbers .* got \[1\.0, 2\.0\]"),
        ({"class_weights": [1.0, 2.0, -1.0]}, "expected 3 numbers"),
        ({"class_weights": [1.0, 2.0, float("inf")]}, "expected 3 numbers"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "at least one above 0"),
    ],
)
def test_class_weights_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"task\.class_weights.*{message}"):
        classification(**{"num_classes": 3, **arguments})


@pytest.mark.usefixtures("unchecked")
def test_class_weights_of_another_name() -> None:
    with pytest.raises(ValueError, match=r"task\.class_weights: expected null, balanced or a list .* 'equal'"):
        criterion(class_weights="equal", class_counts=[1, 2, 3])


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    """Six samples of class 0, two of class 1, none of class 2; with a model that confuses some of them."""
    learner = task(balanced_accuracy=True, lr=0.0)
    items = [Sample(inputs={"points": torch.randn(4, 3)}, target=int(n >= 6), id=f"sample/{n}") for n in range(8)]
    data = loader(items)
    runner = trainer()
    runner.fit(learner, data, data)
    predicted = logits_of(learner, data.collate_fn(items)).argmax(1).numpy()
    truth = np.array([item.target for item in items])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about predicted classes that do not occur
        expected = balanced_accuracy_score(truth, predicted)
    assert 0 < expected != np.mean(truth == predicted), "a case that tells the two accuracies apart"
    assert float(runner.callback_metrics["val/balanced_accuracy"]) == pytest.approx(expected)
    [result] = runner.test(learner, data, verbose=False)
    assert result["test/balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_target_out_of_range_names_its_sample(wrong: int) -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=torch.tensor([0, wrong]), ids=["good", "bad/7"])
    with pytest.raises(ValueError, match=rf"'bad/7'.*0 to 2, got {wrong}"):
        task().on_before_batch_transfer(batch, 0)


def test_a_missing_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="no labels"):
        task().on_before_batch_transfer(Batch(inputs={"points": torch.zeros(2, 1, 3)}), 0)


@pytest.mark.parametrize(("argument", "value"), [("num_classes", 1), ("label_smoothing", 1.0), ("label_smoothing", -0.1)])
def test_arguments_are_checked(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"task\.{argument}"):
        criterion(**{argument: value})


def test_classes_of_pixels_are_another_task() -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"one class number per sample \(2,\), got .* \(2, 4, 4\).*task=segmentation"):
        task().on_before_batch_transfer(batch, 0)
