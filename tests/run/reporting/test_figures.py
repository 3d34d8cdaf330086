"""When a run draws and where the figures go; what they show is tested in tests/plots."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from plots_cases import NAMES, model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from perceiver.model import Perceiver
from perceiver.objectives import classification
from perceiver.plots import AttentionMaps, SampleGrid
from perceiver.run.reporting.figures import ConfusionFigures, Figures
from perceiver.run.reporting.metrics import BestEpoch
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.training import Task


class Remembering:
    """Draws an empty figure and remembers the model's weights and the batches."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.ids: list[list[str]] = []

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        self.weights.append(model.encoder.latents.detach().clone())
        self.ids.append([name for batch in batches for name in batch.ids])
        return {"seen": Figure(figsize=(1, 1))}


def loader(name: str, count: int = 6) -> DataLoader[Any]:
    items = [
        Sample(inputs={"image": torch.randn(3, 9, 8)}, target=number % 3, id=f"{name}/{number}") for number in range(count)
    ]
    collate = Collate(modalities={"image": {"kind": "image"}})
    return DataLoader(items, batch_size=2, shuffle=name == "train", collate_fn=collate)  # type: ignore[arg-type]


def task(lr: float = 0.1) -> Task:
    objective = classification(num_classes=3)
    return Task(model=model("image").train(), objective=objective, optimizer=partial(torch.optim.SGD, lr=lr))


def trainer(directory: Path, *callbacks: Any, epochs: int = 3, **arguments: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    best = ModelCheckpoint(dirpath=directory / "checkpoints", filename="best", monitor="val/loss", mode="max")
    settings: dict[str, Any] = {"logger": False, "callbacks": [*callbacks, best], **quiet, **arguments}
    return Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=directory, **settings)


def test_the_best_weights_are_drawn_and_the_last_ones_given_back(tmp_path: Path) -> None:
    draw, learner = Remembering(), task()
    runner = trainer(tmp_path, Figures(directory=tmp_path, draw=draw))
    runner.fit(learner, loader("train"), loader("val"))
    [drawn] = draw.weights
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert torch.equal(drawn, best["state_dict"]["model.encoder.latents"])
    last = learner.model.encoder.latents
    assert best["epoch"] == 0, "the loss only falls, and the best by mode=max is the first"
    assert not torch.equal(drawn, last)
    assert draw.ids == [[f"val/{number}" for number in range(6)]]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"seen_val.png"}

    runner.test(learner, loader("test"), verbose=False)
    assert len(draw.weights) == 1, "what was trained has shown its validation data"


def test_without_training_the_test_data_is_drawn(tmp_path: Path) -> None:
    draw = Remembering()
    trainer(tmp_path, Figures(directory=tmp_path, draw=draw)).test(task(), loader("test"), verbose=False)
    assert draw.ids == [[f"test/{number}" for number in range(6)]]
    assert (tmp_path / "figures" / "seen_test.png").is_file()


def test_epochs_go_to_tensorboard(tmp_path: Path) -> None:
    draw = Remembering()
    figures = Figures(directory=tmp_path, draw=draw, every_n_epochs=2)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer(tmp_path, figures, epochs=4, logger=logger).fit(task(), loader("train"), loader("val"))
    assert len(draw.weights) == 3, "epochs 2 and 4, and the best; not the sanity check"
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Images("val/seen")] == [1, 3, 4]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"seen_val.png"}


def test_figures_of_epochs_are_kept_if_asked_for(tmp_path: Path) -> None:
    figures = Figures(directory=tmp_path, draw=Remembering(), every_n_epochs=2, epoch_files=True)
    trainer(tmp_path, figures, epochs=3).fit(task(), loader("train"), loader("val"))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"seen_val.png", "seen_val_epoch_0002.png"}


def test_looking_changes_no_training(tmp_path: Path) -> None:
    """Data loaders draw a seed whenever they start."""
    losses = []
    for every, directory in ((None, tmp_path / "a"), (1, tmp_path / "b")):
        torch.manual_seed(5)
        figures = Figures(directory=directory, draw=SampleGrid(num_samples=2), every_n_epochs=every)
        runner = trainer(directory, figures, epochs=2)
        torch.manual_seed(7)
        data = loader("train"), loader("val")
        runner.fit(task(), *data)
        losses.append(float(runner.callback_metrics["train/loss"]))
    assert losses[0] == losses[1]


def failing(model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
    raise RuntimeError("no ink")


def test_a_figure_that_fails_costs_no_training(tmp_path: Path) -> None:
    runner = trainer(tmp_path, Figures(directory=tmp_path, draw=failing), epochs=1)
    with pytest.warns(UserWarning, match="figures: failing failed and is left out: RuntimeError: no ink"):
        runner.fit(task(), loader("train"), loader("val"))
    assert not (tmp_path / "figures").exists()


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")
def test_without_validation_nothing_is_drawn(tmp_path: Path) -> None:
    draw = Remembering()
    figures = Figures(directory=tmp_path, draw=draw)
    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, callbacks=[figures],
    ).fit(task(), loader("train"))  # fmt: skip
    assert draw.weights == []


def test_other_processes_and_other_models_draw_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Remembering()
    figures = Figures(directory=tmp_path, draw=draw)
    runner = trainer(tmp_path, figures, epochs=1)
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    figures.on_test_end(runner, task())
    monkeypatch.undo()
    other = task()
    other.model = torch.nn.Linear(1, 1)
    figures.on_test_end(runner, other)
    assert draw.weights == []


def test_everything_at_once_writes_real_figures(tmp_path: Path) -> None:
    best = BestEpoch()
    callbacks = [
        best,
        ConfusionFigures(directory=tmp_path, names=NAMES, best=best),
        Figures(
            directory=tmp_path,
            draw={"samples": SampleGrid(num_samples=4), "attention": AttentionMaps(num_samples=2, num_latents=3), "x": None},
        ),
    ]
    runner, learner = trainer(tmp_path, *callbacks, epochs=1), task()
    runner.fit(learner, loader("train"), loader("val"))
    runner.test(learner, loader("test"), verbose=False)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        "confusion_val.png",
        "confusion_test.png",
        "samples_val.png",
        "attention_image_val.png",
        "latents_image_val.png",
    }


@pytest.mark.parametrize("name", ["$x", "$x$", r"$\frac{$"])
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """Pairs of dollar signs are mathematics to matplotlib, and not all is valid."""
    best = BestEpoch()
    best.epoch, best.confusion = 0, torch.eye(2)
    figures = ConfusionFigures(directory=tmp_path, names=[name, "b"], best=best)
    figures.on_train_end(trainer(tmp_path), task())
    assert (tmp_path / "figures" / "confusion_val.png").is_file()


def test_a_confusion_that_cannot_be_written_costs_no_training(tmp_path: Path) -> None:
    best = BestEpoch()
    best.epoch, best.confusion = 0, torch.eye(2)
    (tmp_path / "figures").write_text("a file")
    with pytest.warns(UserWarning, match="figures: confusion failed and is left out: FileExistsError"):
        ConfusionFigures(directory=tmp_path, names=NAMES, best=best).on_train_end(trainer(tmp_path), task())


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_n_epochs: expected 1 or more"):
        Figures(directory=tmp_path, draw=failing, every_n_epochs=0)
