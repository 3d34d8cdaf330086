"""When the last checkpoint is written; tests/run/processes/test_interruption.py resumes from it."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from lightning.pytorch import LightningModule, Trainer

from perceiver.run.resuming.last_checkpoint import LastCheckpoint


class Run:
    """A trainer as far as the callback looks at it: epochs of ten steps."""

    def __init__(self, callback: LastCheckpoint) -> None:
        self.callback = callback
        self.saved: list[int] = []
        self.trainer: Any = Mock(spec=Trainer, global_step=0, current_epoch=0, should_stop=False, loggers=[])
        self.trainer.save_checkpoint = self.save
        self.trainer.enable_validation = False

    def save(self, path: Path) -> None:
        Path(path).write_text(str(self.trainer.global_step))
        self.saved.append(self.trainer.global_step)

    def go(self, epochs: int) -> None:
        self.callback.on_train_start(self.trainer, LightningModule())
        for epoch in range(epochs):
            self.trainer.current_epoch = epoch
            for number in range(10):
                self.trainer.global_step += 1
                self.trainer.is_last_batch = number == 9
                self.callback.on_train_batch_end(self.trainer, LightningModule(), None, None, number)
            self.callback.on_train_epoch_end(self.trainer, LightningModule())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [10, 20, 30]),
        ({"every_n_epochs": 2}, [20]),
        ({"every_n_epochs": None, "every_n_train_steps": 4}, [4, 8, 12, 16, 20, 24, 28]),
        ({"every_n_train_steps": 5}, [5, 10, 15, 20, 25, 30]),
        ({"every_n_epochs": None}, []),
    ],
)
def test_when(settings: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    run = Run(LastCheckpoint(directory=tmp_path, **settings))
    run.go(3)
    assert run.saved == expected
    if len(expected) > 1:
        assert (tmp_path / "last.ckpt").read_text() == str(expected[-1])
        assert (tmp_path / "previous.ckpt").read_text() == str(expected[-2])


@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_train_steps"])
def test_numbers_are_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"callbacks\.last\.{name}: expected 1 or more, or null to disable it, got 0"):
        LastCheckpoint(directory=tmp_path, **{name: 0})
