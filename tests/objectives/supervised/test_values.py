"""The regression task: its numbers against scikit-learn, and from end to end on where the ink of digits is."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from digit_targets import VALUES, InkCentres
from hydra_runs import OTHER_DATA
from hydra_runs import run as train
from lightning.pytorch import Trainer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, r2_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

import perceiver
from perceiver.objectives import regression
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import target_of
from perceiver.targets.values import values_target
from perceiver.training import Task


class LinearModel(nn.Module):
    """Values from the first point."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        values: Tensor = self.map(inputs["points"][:, 0])
        return values


def task(model: nn.Module | None = None, optimizer: Any = None, **settings: Any) -> Task:
    return Task(
        model=model or LinearModel(3, 2),
        objective=regression(**{"mean": [0.0, 0.0], "std": [1.0, 1.0], **settings}),
        optimizer=optimizer or partial(torch.optim.SGD, lr=0.0),
    )


def loader(x: Tensor, targets: Tensor) -> DataLoader[Any]:
    items = [
        Sample(inputs={"points": row[None]}, target=target, id=f"sample/{number}")
        for number, (row, target) in enumerate(zip(x, targets, strict=True))
    ]
    return DataLoader(items, batch_size=8, collate_fn=Collate(modalities={"points": {"kind": "points"}}))  # type: ignore[arg-type]


def trainer(epochs: int = 1) -> Trainer:
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=epochs, accelerator="cpu", logger=False, log_every_n_steps=1, **quiet)


def test_metrics_are_those_of_scikit_learn() -> None:
    """Values are far from 0 or tiny, and batches of unequal size."""
    x = torch.randn(21, 3)
    targets = torch.tensor([2000.0, 1e-5]) + torch.randn(21, 2) * torch.tensor([3.0, 1e-6])
    facts = values_target(names=["year", "tiny"], training=targets)
    learner, data = task(mean=facts["mean"], std=facts["std"]), loader(x, targets)
    nn.init.normal_(learner.model.map.weight, std=0.3)
    runner = trainer()
    runner.fit(learner, data, data)
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert set(logged) == {"train/loss", "train/learning_rate", "val/loss", "val/mae", "val/r2"}
    target = target_of({"target": facts})
    assert target is not None
    with torch.no_grad():
        values = [
            list(one.values.values())
            for one in target.predict(learner.model(data.collate_fn(list(data.dataset)).inputs, {}))
        ]
    truth = targets.double().numpy()
    assert logged["val/mae"] == pytest.approx(mean_absolute_error(truth, values), rel=1e-4)
    assert logged["val/r2"] == pytest.approx(r2_score(truth, values), rel=1e-4)
    normalised = (truth - facts["mean"]) / facts["std"], (np.array(values) - facts["mean"]) / facts["std"]
    assert logged["val/loss"] == pytest.approx(np.square(normalised[0] - normalised[1]).mean(), rel=1e-4)
    [result] = runner.test(learner, data, verbose=False)
    assert result["test/mae"] == pytest.approx(logged["val/mae"])


def test_learns_what_least_squares_finds() -> None:
    """scikit-learn's diabetes data: validation error near that of its closed form, both fitted on the same rows."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    training, validation = order[:342], order[342:]
    scaled = torch.from_numpy(x / x[training].std(axis=0)).float()
    facts = values_target(names=["progression"], training=torch.from_numpy(y[training])[:, None])
    learner = task(
        model=LinearModel(10, 1), mean=facts["mean"], std=facts["std"], optimizer=partial(torch.optim.Adam, lr=0.01)
    )
    loaders = [loader(scaled[rows], torch.from_numpy(y[rows])) for rows in (training, validation)]
    runner = trainer(epochs=30)
    runner.fit(learner, *loaders)
    expected = mean_absolute_error(y[validation], LinearRegression().fit(x[training], y[training]).predict(x[validation]))
    assert float(runner.callback_metrics["val/mae"]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("loss", "value"), [(None, 12.5), (nn.MSELoss(), 12.5), (nn.L1Loss(), 3.5), (nn.HuberLoss(delta=1.0), 3.0)]
)
def test_the_loss_is_an_object(loss: nn.Module | None, value: float) -> None:
    learner = task(loss=loss, mean=[1.0, 1.0], std=[2.0, 2.0])
    for parameter in learner.parameters():
        nn.init.zeros_(parameter)
    data = loader(torch.zeros(2, 3), torch.tensor([[7.0, 9.0], [7.0, 9.0]]))
    runner = trainer()
    runner.fit(learner, data, data)
    assert float(runner.callback_metrics["val/loss"]) == pytest.approx(value), "of targets 3 and 4 when normalised"


def test_a_single_sample_has_no_r2() -> None:
    data = loader(torch.zeros(1, 3), torch.ones(1, 2))
    runner = trainer()
    runner.fit(learner := task(), data, data)
    assert {name for name in runner.callback_metrics if name.startswith("val/")} == {"val/loss", "val/mae"}
    assert all(name.startswith("model.") for name in learner.state_dict())


@pytest.mark.parametrize(
    "arguments",
    [
        {"mean": [0.0]},
        {"std": [1.0, 0.0]},
        {"mean": [0.0, float("nan")]},
        {"mean": [], "std": []},
    ],
)
def test_statistics_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task\.mean, task\.std: expected a finite mean and a standard deviation above 0"):
        task(**arguments)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(2), r"expected \(B, 2\), got \(2,\)"),
        (torch.zeros(2, 3), r"expected \(B, 2\), got \(2, 3\)"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 1.0]]), r"'bad/7': expected finite numbers, got \[inf"),
        (None, "got None"),
    ],
)
def test_targets_that_are_none(target: Tensor | None, message: str) -> None:
    batch = Batch(inputs={"points": torch.zeros(2, 1, 3)}, target=target, ids=["good", "bad/7"])
    with pytest.raises(ValueError, match=message):
        task().on_before_batch_transfer(batch, 0)


def test_a_model_with_another_number_of_outputs() -> None:
    data = loader(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"returns \(2, 5\), but the target needs 2 outputs"):
        trainer().fit(task(model=LinearModel(3, 5)), data, data)


def test_where_the_ink_is(tmp_path: Path) -> None:
    """Through the run: statistics of the training split in the spec, and a loaded model that has the reported quality."""
    run, again = tmp_path / "run", tmp_path / "again"
    common = ("data._target_=digit_targets.InkCentres", "task=regression", "logger=none")
    code, out, err = train(
        *OTHER_DATA, *common, "trainer.max_epochs=8", "task.loss._target_=torch.nn.L1Loss", f"hydra.run.dir={run}"
    )
    assert code == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"Test r2 {metrics['test/r2']:.4g}, mae {metrics['test/mae']:.4g}" in out
    data = InkCentres()
    training = data.targets()[data.index["train"]].double().numpy()
    stored = yaml.safe_load((run / "config.yaml").read_text())["spec"]["target"]
    np.testing.assert_allclose(stored["mean"], training.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stored["std"], training.std(axis=0), rtol=1e-9)
    assert metrics["val/r2"] > 0.5
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert metrics["best_epoch"] == best["epoch"]

    model = perceiver.load(run)
    test = data.test_dataloader()
    target = target_of(model.spec)
    assert target is not None
    with torch.no_grad():
        predictions = target.predict(model(test.collate_fn(list(test.dataset)).inputs))
    values = np.array([[one.values[name] for name in VALUES] for one in predictions])
    loaded = model.predict([data.pixels[number].numpy() for number in data.index["test"]])
    np.testing.assert_allclose([[one.values[name] for name in VALUES] for one in loaded], values, rtol=1e-4, atol=0.1)
    truth = data.targets()[data.index["test"]].double().numpy()
    assert metrics["test/mae"] == pytest.approx(mean_absolute_error(truth, values), rel=1e-4)
    assert metrics["test/r2"] == pytest.approx(r2_score(truth, values), rel=1e-4)

    code, _, err = train(*OTHER_DATA, *common, "mode=test", f"ckpt_path={run}", f"hydra.run.dir={again}")
    assert code == 0, err
    assert json.loads((again / "metrics.json").read_text())["test/mae"] == pytest.approx(metrics["test/mae"], rel=1e-5)


def test_overfitting_one_batch_is_for_every_task(tmp_path: Path) -> None:
    arguments = ("data._target_=digit_targets.InkCentres", "task=regression", "debug=overfit", "trainer.max_epochs=3")
    code, _, err = train(*OTHER_DATA, *arguments, "logger=none", f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    assert "train/loss" in json.loads((tmp_path / "metrics.json").read_text())
