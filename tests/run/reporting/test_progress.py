"""Progress without a terminal."""

from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from perceiver.run.reporting.progress import ProgressLines, progress_bar

METRICS = {"train/loss": 0.25, "val/accuracy": 0.5, "val/auroc": 0.75, "val/attention/image": 0.9}


def trainer(epoch: int) -> Mock:
    return Mock(
        spec=Trainer,
        current_epoch=epoch,
        max_epochs=5,
        num_training_batches=9,
        callback_metrics={name: torch.tensor(value) for name, value in METRICS.items()},
    )


def test_a_line_after_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(epochs_per_line=2)
    for epoch in range(5):
        lines.on_train_epoch_start(trainer(epoch), LightningModule())
        lines.on_train_epoch_end(trainer(epoch), LightningModule())
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed] == ["epoch 2/5", "epoch 4/5", "epoch 5/5"]
    assert "train/loss 0.2500  val/accuracy 0.5000  val/auroc 0.7500" in printed[0]
    assert "attention" not in printed[0]


def test_lines_within_a_long_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(seconds_per_line=0.0)
    lines.on_train_batch_end(trainer(0), LightningModule(), {"loss": torch.tensor(0.5)}, None, 2)
    lines.disable()
    lines.on_train_batch_end(trainer(0), LightningModule(), {}, None, 3)
    assert capsys.readouterr().out == "epoch 1/5  step 3/9  loss 0.5000\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_bar(), ProgressLines)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(progress_bar(), RichProgressBar)
