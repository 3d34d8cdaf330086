"""The multi-label task: its numbers against scikit-learn, and from end to end on digits with three labels."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from digit_targets import LABELS, LabelledDigits
from hydra_runs import OTHER_DATA
from hydra_runs import run as train
from lightning.pytorch import Trainer
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

import perceiver
from perceiver.objectives import multilabel
from perceiver.objectives.metrics.quality import RankingQuality
from perceiver.objectives.supervised.labels import Labels
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import target_of
from perceiver.training import Task


class LinearModel(nn.Module):
    """Labels from the mean of points."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.map(inputs["points"].mean(dim=1))
        return logits


def task(**settings: Any) -> Task:
    objective = multilabel(**{"num_classes": 3, **settings})
    return Task(model=LinearModel(), objective=objective, optimizer=partial(torch.optim.SGD, lr=0.0))


def samples(targets: Tensor) -> list[Sample]:
    return [
        Sample(inputs={"points": torch.randn(4, 3)}, target=target, id=f"sample/{number}")
        for number, target in enumerate(targets)
    ]


def loader(items: list[Sample]) -> DataLoader[Any]:
    return DataLoader(items, batch_size=8, collate_fn=Collate(modalities={"points": {"kind": "points"}}))  # type: ignore[arg-type]


def trainer() -> Trainer:
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=2, accelerator="cpu", logger=False, log_every_n_steps=1, **quiet)


def test_metrics_are_those_of_scikit_learn() -> None:
    """Over batches of unequal size; the last label occurs nowhere and counts nowhere."""
    targets = torch.rand(21, 3) < torch.tensor([0.5, 0.2, 0.0])
    items = samples(targets)
    learner, data = task(), loader(items)
    runner = trainer()
    runner.fit(learner, data, data)
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert set(logged) == {
        "train/loss",
        "train/learning_rate",
        "val/loss",
        "val/average_precision",
        "val/auroc",
    }
    with torch.no_grad():
        scores = learner.model(data.collate_fn(items).inputs, {}).numpy()
    truth = targets.numpy()
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    assert logged["val/average_precision"] == pytest.approx(average_precision_score(truth[:, :2], scores[:, :2]), abs=1e-6)
    assert logged["val/auroc"] == pytest.approx(roc_auc_score(truth[:, :2], scores[:, :2]), abs=1e-6)
    expected = np.mean([log_loss(truth[:, n], probabilities[:, n], labels=[False, True]) for n in range(3)])
    assert logged["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["train/loss"] == pytest.approx(expected, rel=1e-5), "without weights, and with nothing learned"
    [result] = runner.test(learner, data, verbose=False)
    assert result["test/average_precision"] == pytest.approx(logged["val/average_precision"])


def test_labels_that_say_nothing_do_not_count() -> None:
    quality = RankingQuality()
    logits = torch.tensor([[3.0, 0.1, -1.0], [-2.0, 0.4, 0.0], [0.5, 0.2, 4.0]])
    targets = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=torch.bool)
    quality.update(logits, targets)
    assert {name: float(value) for name, value in quality.compute().items()} == {"average_precision": 1.0, "auroc": 1.0}
    quality.reset()
    quality.update(logits, torch.zeros(3, 3, dtype=torch.bool))
    assert all(value.isnan() for value in quality.compute().values())


def test_ties_and_large_logits_rank_as_in_scikit_learn() -> None:
    """A sigmoid in float32 makes one of logits above 17, and of many logits near 0."""
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.integers(15, 30, 40), generator.normal(0, 1e-6, 40)]).astype(np.float32)
    truth = generator.random(80) < 0.4
    quality = RankingQuality()
    for rows in (slice(0, 7), slice(7, 80)):
        quality.update(torch.from_numpy(scores[rows])[:, None], torch.from_numpy(truth[rows])[:, None])
    computed = quality.compute()
    assert float(computed["average_precision"]) == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert float(computed["auroc"]) == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)


def test_a_split_without_positives_logs_no_ranking() -> None:
    learner, data = task(), loader(samples(torch.zeros(8, 3, dtype=torch.bool)))
    runner = trainer()
    runner.fit(learner, data, data)
    assert {name for name in runner.callback_metrics if name.startswith("val/")} == {"val/loss"}


def test_positive_weights_weigh_the_training_loss_only() -> None:
    weights = [4.0, 1.0, 0.5]
    learner = task(positive_weights=weights)
    targets = torch.rand(16, 3) < 0.4
    data = loader(samples(targets))
    runner = trainer()
    runner.fit(learner, data, data)
    with torch.no_grad():
        logits = learner.model(data.collate_fn(list(data.dataset)).inputs, {})
    each = -(torch.tensor(weights) * targets * F.logsigmoid(logits) + ~targets * F.logsigmoid(-logits))
    assert float(runner.callback_metrics["train/loss"]) == pytest.approx(float(each.mean()), rel=1e-5)
    plain = -(targets * F.logsigmoid(logits) + ~targets * F.logsigmoid(-logits)).mean()
    assert float(runner.callback_metrics["val/loss"]) == pytest.approx(float(plain), rel=1e-5)
    assert all(name.startswith("model.") for name in learner.state_dict())


def test_balanced_weights_give_both_sides_the_same_weight() -> None:
    balanced = multilabel(num_classes=3, positive_weights="balanced", positive_counts=[10, 0, 40], num_samples=40).criterion
    assert isinstance(balanced, Labels)
    assert balanced.positive_weights is not None
    assert balanced.positive_weights.tolist() == [3.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive_weights": "balanced"}, "=balanced: expected positive_counts, .* got None"),
        ({"positive_weights": "balanced", "positive_counts": [1, 2], "num_samples": 3}, r"got \[1, 2\] and 3"),
        ({"positive_weights": [1.0, 2.0]}, "expected 3 numbers above 0"),
        ({"positive_weights": [1.0, 2.0, 0.0]}, "expected 3 numbers above 0"),
        ({"num_classes": 0}, r"task\.num_classes: expected at least 1"),
    ],
)
def test_settings_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1]), r"expected \(B, 3\), .* got \(2,\)"),
        (torch.ones(2, 4), r"expected \(B, 3\), .* got \(2, 4\)"),
        (torch.tensor([[0.0, 1.0, 1.0], [0.0, 2.0, 1.0]]), r"'bad/7': expected booleans"),
        (torch.tensor([[0.0, 1.0, 1.0], [0.0, float("nan"), 1.0]]), r"'bad/7': expected booleans"),
        (None, "got None"),
    ],
)
def test_targets_that_are_none(target: Tensor | None, message: str) -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=target, ids=["good", "bad/7"])
    with pytest.raises(ValueError, match=message):
        task().on_before_batch_transfer(batch, 0)


def test_digits_with_three_labels(tmp_path: Path) -> None:
    """Through the run: the best epoch by average precision, and a loaded model that has the reported quality."""
    run, again = tmp_path / "run", tmp_path / "again"
    common = ("data._target_=digit_targets.LabelledDigits", "task=multilabel", "logger=none")
    code, out, err = train(*OTHER_DATA, *common, "trainer.max_epochs=6", f"hydra.run.dir={run}")
    assert code == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"Test average precision {metrics['test/average_precision']:.4g}, auroc" in out
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert metrics["best_epoch"] == best["epoch"]
    data = LabelledDigits()
    frequencies = data.targets()[data.index["val"]].float().mean()
    assert metrics["val/average_precision"] > frequencies + 0.2, "scores that say nothing reach the frequencies"
    index = data.index["test"]
    model = perceiver.load(run)
    assert model.spec == data.spec
    x = next(iter(DataLoader(data.test_dataloader().dataset, batch_size=150, collate_fn=data.test_dataloader().collate_fn)))
    with torch.no_grad():
        logits = model(x.inputs)
    truth, scores = data.targets()[index].numpy(), logits.numpy()
    assert metrics["test/average_precision"] == pytest.approx(average_precision_score(truth, scores), abs=1e-5)
    assert metrics["test/auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-5)
    target = target_of(model.spec)
    assert target is not None
    predicted = [[label in one.labels for label in LABELS] for one in target.predict(logits)]
    loaded = model.predict([data.pixels[number].numpy() for number in index])
    assert [[label in one.labels for label in LABELS] for one in loaded] == predicted, "raw images, as in training"
    share = truth.mean(axis=0)
    assert (np.array(predicted) == truth).mean() > np.maximum(share, 1 - share).mean() + 0.1, "beats the commonest answer"

    code, out, err = train(*OTHER_DATA, *common, "mode=test", f"ckpt_path={run}", f"hydra.run.dir={again}")
    assert code == 0, err
    assert json.loads((again / "metrics.json").read_text())["test/auroc"] == pytest.approx(metrics["test/auroc"], abs=1e-6)
    code, out, err = train(*OTHER_DATA, common[0], "mode=test", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'wrong'}")
    assert code == 1
    assert "was trained with perceiver.objectives.multilabel" in err
    assert "select the checkpoint's task with task=NAME" in err
