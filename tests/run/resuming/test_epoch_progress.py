"""Where an epoch goes on when batches or processes are other ones; test_interruption.py and test_ranks.py do so for real."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from perceiver.objectives import classification
from perceiver.run.resuming.epoch_progress import KEY, EpochProgress
from perceiver.samples.batch import Batch
from perceiver.training import Task

pytestmark = pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer


def resumed(place: dict[str, int], *, processes: int, batch_size: int = 16, kept: dict[str, Any]) -> dict[str, int]:
    """The count of batches after a checkpoint of 8 batches was taken up."""
    count = {"ready": 8, "started": 8, "processed": 8, "completed": 7}
    loops = {"state_dict": {"combined_loader": [place]}, "epoch_loop.batch_progress": {"current": count}}
    trainer = SimpleNamespace(
        world_size=processes, global_rank=0, accumulate_grad_batches=1, datamodule=SimpleNamespace(batch_size=batch_size)
    )
    EpochProgress().on_load_checkpoint(trainer, None, {"loops": {"fit_loop": loops}, KEY: kept})  # type: ignore[arg-type]
    return count


OWN = {"epoch": 0, "batches": 8, "samples": 8 * 32}
OF_SHARDS = {"current_epoch": 1, "num_samples_yielded": 128}
TWO = {"world_size": 2, "batch": 32, "metrics": [{}, {}]}


@pytest.mark.parametrize("place", [OWN, OF_SHARDS], ids=["own", "of shards"])
@pytest.mark.parametrize(
    ("processes", "batch_size", "expected"),
    [(2, 16, (8, 7)), (1, 32, (8, 7)), (1, 16, (16, 15)), (4, 16, (4, 3)), (1, 100, (2, 1))],
)
def test_the_count_goes_on_at_the_whole_batch_before(
    place: dict[str, int], processes: int, batch_size: int, expected: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    count = resumed(place, processes=processes, batch_size=batch_size, kept=TWO)
    assert (count["ready"], count["processed"], count["completed"]) == (expected[0], expected[0], expected[1])
    message = capsys.readouterr().err
    assert ("2 processes, now" in message) == (processes != 2)
    other = processes != 2 and processes * batch_size != 32
    assert (f"the global batch changes from 32 to {processes * batch_size}" in message) == other


def test_older_checkpoints_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(OF_SHARDS, processes=1, kept={})["ready"] == 8
    assert resumed(OWN, processes=1, kept={"world_size": 2, "metrics": [{}, {}]})["ready"] == 16
    assert "2 processes, now 1: the epoch continues after 256 samples" in capsys.readouterr().err


@pytest.mark.parametrize("attribute", [{"attribute": "train_loss"}, {}], ids=["version 0.1", "now"])
def test_metrics_of_an_interrupted_epoch_go_on(attribute: dict[str, str]) -> None:
    """Those of a checkpoint of version 0.1, too; states of other metrics are left alone."""
    task = Task(model=torch.nn.Linear(1, 1), objective=classification(num_classes=2), optimizer=torch.optim.SGD)
    loss = {**attribute, "values": {"total": torch.tensor(6.0), "weight": torch.tensor(4.0)}}
    kept = {"world_size": 1, "metrics": [{"train_loss": loss, "train_accuracy": {"values": {"total": torch.tensor(1.0)}}}]}
    progress = EpochProgress()
    loops = {"state_dict": {}, "epoch_loop.batch_progress": {"current": {"ready": 8}}}
    loop = SimpleNamespace(restarting=True, _combined_loader_states_to_load=[], _data_fetcher=None)
    trainer: Any = SimpleNamespace(world_size=1, global_rank=0, datamodule=None, fit_loop=loop)
    progress.on_load_checkpoint(trainer, task, {"loops": {"fit_loop": loops}, KEY: kept})
    progress.on_train_start(trainer, task)
    metrics = task.training_metrics()
    metrics["train/loss"].update(torch.tensor(0.0), 2)
    assert float(metrics["train/loss"].compute()) == 1.0
    assert "total" not in metrics["train/accuracy"].metric_state


def test_the_best_checkpoint_holds_the_metrics_of_its_epoch(tmp_path: Path) -> None:
    """It is written after the last batch was logged, and before the epoch is over."""
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/loss", save_on_train_epoch_end=False)
    task = Task(model=PooledPoints(), objective=classification(num_classes=2), optimizer=partial(torch.optim.SGD, lr=0.0))
    batches = [Batch(inputs={"points": torch.rand(3, 2)}, target=torch.tensor([0, 1, 1])) for _ in range(2)]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_epochs=1, accelerator="cpu", callbacks=[EpochProgress(), best], **quiet).fit(task, loader, loader)
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)[KEY]["metrics"][0]
    assert float(kept["train_loss"]["values"]["weight"]) == 6
    assert int(kept["train_accuracy"]["values"]["tp"] + kept["train_accuracy"]["values"]["fn"]) == 6


class PooledPoints(torch.nn.Linear):
    """Classes of points."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, inputs: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> torch.Tensor:
        return super().forward(inputs["points"])
