"""The numbers of a run: which epoch was the best, and metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics.classification import MulticlassConfusionMatrix

from perceiver.run.resuming.last_checkpoint import LastCheckpoint
from perceiver.runtime.files import write_json

_MAX_BYTES = 2**20  # of an earlier metrics.json; whatever is larger is none


class BestEpoch(Callback):
    """Remembers the validation metrics of the epoch that the best checkpoint was written in.

    It compares as the first ModelCheckpoint with a monitor does, and its state lies in checkpoints, so that a resumed run
    knows the best of all its epochs.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.score: float | None = None
        self.metrics: dict[str, float] = {}
        self.confusion: torch.Tensor | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over this epoch's validation metrics if they are the best so far."""
        monitor = _monitor(trainer)
        if trainer.sanity_checking or monitor is None or monitor.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[monitor.monitor])
        better = self.score is None or (score > self.score if monitor.mode == "max" else score < self.score)
        if better:
            self.epoch, self.score = trainer.current_epoch, score
            self.metrics = last_metrics(trainer, "val")
            self.confusion = confusion_of(pl_module, "val")

    def summary(self) -> dict[str, float | int]:
        """The metrics and the number of the best epoch; empty without validation."""
        return self.metrics if self.epoch is None else {**self.metrics, "best_epoch": self.epoch}

    def state_dict(self) -> dict[str, Any]:
        """Epoch, score, metrics and confusion matrix of the best epoch."""
        return {"epoch": self.epoch, "score": self.score, "metrics": self.metrics, "confusion": self.confusion}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.epoch, self.score = state_dict["epoch"], state_dict["score"]
        self.metrics, self.confusion = dict(state_dict["metrics"]), state_dict["confusion"]


def last_metrics(trainer: Trainer, stage: str) -> dict[str, float]:
    """The last logged values whose names begin with `stage/`."""
    return {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith(f"{stage}/")}


def confusion_of(task: LightningModule, stage: str) -> torch.Tensor | None:
    """The confusion matrix of the last pass over a stage's data, `(classes, classes)`, if the task keeps one."""
    metric = getattr(task, f"{stage}_confusion", None)
    if not isinstance(metric, MulticlassConfusionMatrix):
        return None
    matrix: torch.Tensor = metric.compute()
    return matrix.cpu()


def write_metrics(path: Path, metrics: Mapping[str, float | int]) -> None:
    """Write metrics.json; keys that are there already and not given anew stay, as when a run is tested again."""
    earlier: dict[str, Any] = {}
    if path.exists():
        try:
            with path.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
            earlier = content if isinstance(content, dict) else {}
        except (ValueError, RecursionError):
            earlier = {}
    write_json(path, {**metrics, **{k: v for k, v in earlier.items() if k not in metrics}})


def monitored(trainer: Trainer) -> str | None:
    """The metric that the best checkpoint is chosen by, `val/…`; None if none is."""
    monitor = _monitor(trainer)
    return None if monitor is None else monitor.monitor


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by validation, or the last one of a run without validation; None if none is written."""
    found = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    found.sort(key=lambda callback: callback.monitor is None)
    best = next((Path(callback.best_model_path) for callback in found if callback.best_model_path), None)
    if best is not None:
        return best
    lasts = [callback.path for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
    return next((path for path in lasts if path.exists()), None)


def _monitor(trainer: Trainer) -> ModelCheckpoint | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            return callback
    return None
