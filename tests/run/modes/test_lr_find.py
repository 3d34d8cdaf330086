"""mode=lr_find: a suggestion from the training split alone, a curve, no checkpoint, and what goes wrong."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra_runs import QUICK, SMALL, run
from lightning.pytorch import Trainer

from perceiver.data.loading.module import DataModule
from perceiver.run.modes.lr_find import SmoothedLosses, suggestion
from perceiver.training import Task

SETTINGS = (*SMALL, "mode=lr_find", "lr_find.steps=40", "data.batch_size=32")

pytestmark = pytest.mark.usefixtures("unchecked")


def test_suggestion_curve_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    split = DataModule.split

    def noted(self: DataModule, name: str) -> object:
        read.append(name)
        return split(self, name)

    monkeypatch.setattr(DataModule, "split", noted)
    done = run(*SETTINGS, f"hydra.run.dir={tmp_path}")
    assert done.code == 0, done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("Suggested learning rate: optimizer.lr=")]
    assert 1e-5 < float(line.rpartition("=")[2]) < 0.5
    assert "test" not in read
    with (tmp_path / "lr_find.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates)
    assert rates[0] < 1e-5
    assert len(rows) <= 40
    assert (tmp_path / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "metrics.json").exists()


def test_training_that_diverges(tmp_path: Path) -> None:
    done = run(*SETTINGS, "lr_find.smallest=10", "lr_find.largest=1e6", "optimizer=sgd", f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert done.error.startswith(("error: lr_find.", "error: mode=lr_find: the loss does not fall"))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr_find.steps=10", "lr_find.steps: expected 20 or more, got 10"),
        ("lr_find.smallest=2", "lr_find: expected 0 < smallest < largest, got smallest=2"),
        ("lr_find.smallest=0", "lr_find: expected 0 < smallest < largest"),
    ],
)
def test_settings_out_of_range(override: str, message: str, tmp_path: Path) -> None:
    done = run("mode=lr_find", override, f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert message in done.error


def test_the_steepest_fall_is_suggested() -> None:
    rates = [10 ** (step / 10 - 6) for step in range(60)]
    losses = [2.3] * 25 + [2.3 - 0.02 * step for step in range(10)] + [2.1 - 0.1 * step for step in range(10)] + [9.0] * 15
    assert 35 <= suggestion(rates, losses) <= 43
    noisy_start = [9.0, 1.0, *losses[2:]]
    assert suggestion(rates, noisy_start) == suggestion(rates, losses)
    with pytest.raises(ValueError, match=r"the loss does not fall at any rate from 1e-06 to 0\.79"):
        suggestion(rates, [1.0 + 0.1 * step for step in range(60)])


def test_rates_and_freezing_are_those_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded weights train at their multiple, in evaluation mode if frozen; a step has all its batches."""
    assert run(*QUICK, "test=false", f"hydra.run.dir={tmp_path / 'first'}").code == 0
    rates: list[list[float]] = []
    steps: list[int] = []
    modes: set[bool] = set()
    end = SmoothedLosses.on_train_batch_end

    def noted(self: SmoothedLosses, trainer: Trainer, task: Task, outputs: object, batch: object, number: int) -> None:
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        steps.append(trainer.global_step)
        modes.add(task.model.encoder.training)
        end(self, trainer, task, outputs, batch, number)
        trainer.should_stop = len(steps) > 3

    monkeypatch.setattr(SmoothedLosses, "on_train_batch_end", noted)
    start = (*SETTINGS, "lr_find.steps=20", f"init_from={tmp_path / 'first'}")
    run(*start, "init_lr_multiplier=0.25", "trainer.accumulate_grad_batches=2", f"hydra.run.dir={tmp_path / 'slower'}")
    assert all(group == pytest.approx(0.25 * own[0]) for own in rates for group in own[2:])
    assert len(rates[0]) == 4
    assert rates[0][0] == pytest.approx(1e-6)
    assert steps[:4] == [0, 1, 1, 2]
    assert modes == {True}
    modes.clear()
    run(*start, "init_freeze=true", f"hydra.run.dir={tmp_path / 'frozen'}")
    assert modes == {False}


def test_the_loss_of_a_step_is_that_of_its_batches() -> None:
    trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=0, should_stop=False)
    losses = SmoothedLosses(advance=lambda: None)
    for step, loss in ((0, 0.5), (1, 1.0), (1, 2.0), (2, 1.0), (2, 90.0), (3, 90.0)):
        trainer.global_step = step
        losses.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)  # type: ignore[arg-type]
        assert trainer.should_stop == (step == 3)
    weights = [0.98**2, 0.98, 1.0]
    assert losses.values[0] == pytest.approx(1.5)
    assert losses.values[2] == pytest.approx(sum(map(lambda a, b: a * b, weights, [1.5, 3.0, 180.0])) / sum(weights))
