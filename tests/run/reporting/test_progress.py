"""Progress without a terminal."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from perceiver.run.reporting.progress import ProgressLines, RunBars, progress_bar
from perceiver.samples.batch import Batch

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
    assert isinstance(progress_bar(), RunBars)


class Linear(LightningModule):
    """Learns nothing, and validates."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch.inputs["x"]).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", batch.inputs["x"].sum(), batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_bars_of_the_whole_run(tmp_path: Path) -> None:
    bars = RunBars()
    seen: list[tuple[float, float | None, str]] = []

    class Watch(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            assert bars.progress is not None
            task = bars.progress.tasks[bars._run]
            seen.append((task.completed, task.total, task.description))

    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/loss")
    quiet: dict[str, Any] = {"logger": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    run = Trainer(max_epochs=2, callbacks=[bars, Watch(), best], **quiet)
    made: Any = [Batch(inputs={"x": torch.ones(4, 1)})] * 3
    loader = DataLoader(made, batch_size=None, collate_fn=lambda batch: batch)
    run.fit(Linear(), loader, loader)
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in seen} == {6}
    assert "best val/loss 4.0000" in seen[-1][2]
    assert "samples/s" in seen[-1][2]


def test_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr("perceiver.run.reporting.progress.time.monotonic", lambda: next(clock))
    lines = ProgressLines()
    for epoch in range(3):
        lines.on_train_epoch_start(trainer(epoch), LightningModule())
        lines.on_train_epoch_end(trainer(epoch), LightningModule())
    printed = capsys.readouterr().out.splitlines()
    assert "left" not in printed[0]
    assert printed[2].endswith(" min left")
