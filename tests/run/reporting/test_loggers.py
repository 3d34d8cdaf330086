"""Every logger gets settings, metrics and figures, several at once; a missing library names its extra."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perceiver.plots.rendering import png_of
from perceiver.run.reporting.loggers import finish_loggers, log_figure, log_hyperparameters, make_loggers

CONF = Path(__file__).parents[3] / "conf"
SETTINGS = {"seed": 3, "model": {"encoder": {"num_latents": 8}}, "spec": {"names": ["a"] * 500}, "run_dir": "/secret"}


def logged(directory: Path, *names: str) -> list[Any]:
    """The loggers of a run that logged settings, a metric, a figure and a text."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"logger=[{','.join(names)}]", f"run_dir={directory}"])
    nodes: Any = OmegaConf.to_container(config.logger, resolve=True)
    loggers = make_loggers(nodes)
    trainer: Any = Mock(spec=Trainer, loggers=loggers)
    log_hyperparameters(trainer, SETTINGS)
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    for logger in loggers:
        logger.log_metrics({"val/loss": 0.5}, step=2)
        logger.save()
    log_figure(trainer, png_of(figure), "val/samples", 2)
    log_figure(trainer, "some text", "val/text", 2)
    for logger in loggers:
        logger.finalize("success")
    finish_loggers(trainer)
    return loggers


def test_csv_and_tensorboard_at_once(tmp_path: Path) -> None:
    assert len(logged(tmp_path, "csv", "tensorboard")) == 2
    assert "num_latents: 8" in (tmp_path / "csv" / "hparams.yaml").read_text()
    assert "/secret" not in (tmp_path / "csv" / "hparams.yaml").read_text()
    assert "0.5" in (tmp_path / "csv" / "metrics.csv").read_text()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["val/samples"]
    assert events.Scalars("val/loss")[0].value == 0.5


@pytest.mark.filterwarnings("ignore")  # of MLflow and of the libraries behind it
def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    [logger] = logged(tmp_path, "mlflow")
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(logger.run_id)
    assert run.data.params["model/encoder/num_latents"] == "8"
    assert run.data.metrics["val/loss"] == 0.5
    names = {Path(one.path).name for one in client.list_artifacts(logger.run_id, "figures")}
    assert names == {"val_samples_2.png", "val_text_2.txt"}


@pytest.mark.filterwarnings("ignore")  # of wandb
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(tmp_path, "wandb")
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb"))
    assert list(run.glob("files/media/images/val/*.png"))
    logged(tmp_path / "second", "wandb")  # a second job of a sweep in the same process
    assert list((tmp_path / "second" / "wandb").glob("offline-run-*"))


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(node: Any) -> None:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr("perceiver.run.reporting.loggers.construct", missing)
    with pytest.raises(ModuleNotFoundError, match=r"logger=wandb: its library is not installed.*'\.\[loggers\]'"):
        make_loggers({"none": None, "wandb": {"_target_": "x"}})
