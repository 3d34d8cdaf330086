"""Metrics of a run: the best epoch, and metrics.json."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from perceiver.run.reporting.attention_by_modality import AttentionByModality
from perceiver.run.resuming.last_checkpoint import LastCheckpoint
from perceiver.runtime.files import write_json
from perceiver.samples.batch import Batch
from perceiver.training import Task

_MAX_BYTES = 2**20  # maximum size of an earlier metrics.json; a larger file is invalid


class BestEpoch(Callback):
    """Records the validation metrics of the epoch of the best checkpoint.

    Epochs are compared as by the first ModelCheckpoint with a monitor. The state is stored in checkpoints, so that a
    resumed run knows the best of all its epochs.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.score: float | None = None
        self.metrics: dict[str, float] = {}
        self.confusion: torch.Tensor | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record this epoch's validation metrics if they are the best so far."""
        monitor = _monitor(trainer)
        if trainer.sanity_checking or monitor is None or monitor.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[monitor.monitor])
        if math.isnan(score):
            return
        better = self.score is None or (score > self.score if monitor.mode == "max" else score < self.score)
        if better:
            self.epoch, self.score = trainer.current_epoch, score
            self.metrics = last_metrics(trainer, "val")
            self.confusion = pl_module.confusion("val") if isinstance(pl_module, Task) else None

    def summary(self) -> dict[str, float | int]:
        """Return the metrics and the number of the best epoch; empty without validation."""
        return self.metrics if self.epoch is None else {**self.metrics, "best_epoch": self.epoch}

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, score, metrics and confusion matrix of the best epoch."""
        return {"epoch": self.epoch, "score": self.score, "metrics": self.metrics, "confusion": self.confusion}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self.epoch, self.score = state_dict["epoch"], state_dict["score"]
        self.metrics, self.confusion = dict(state_dict["metrics"]), state_dict["confusion"]


def last_metrics(trainer: Trainer, stage: str) -> dict[str, float]:
    """Return the last logged values whose names begin with `stage/`."""
    return {name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith(f"{stage}/")}


def write_metrics(path: Path, metrics: Mapping[str, float | int]) -> None:
    """Write metrics.json; existing keys without a new value stay, for example when a run is tested again."""
    earlier: dict[str, Any] = {}
    if path.exists():
        try:
            with path.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
            earlier = content if isinstance(content, dict) else {}
        except (ValueError, RecursionError):
            earlier = {}
    write_json(path, {**metrics, **{k: v for k, v in earlier.items() if k not in metrics}})


def require_known(trainer: Trainer, task: Task) -> None:
    """Check before training that the monitored metrics exist.

    Callbacks and objectives of other packages may log any name, so with these nothing is refused.

    Raises:
        ValueError: a metric is unknown, or there is no validation to stop early by; the message lists the known metrics.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    parts = [*task.objective.modules(), *callbacks]
    if not all(type(part).__module__.partition(".")[0] in _KNOWN_PACKAGES for part in parts):
        return
    known = task.logged_names()
    for callback in callbacks:
        if isinstance(callback, AttentionByModality):
            known += callback.logged_names(task.model)
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(name, str) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"monitor.name={name} (or monitor of {type(callback).__name__}): there is no such metric.{hint} This run "
                f"logs {', '.join(known)}."
            )
        if isinstance(callback, EarlyStopping) and str(name).startswith("val/") and trainer.limit_val_batches == 0:
            raise ValueError(
                f"callbacks: {type(callback).__name__} stops by {name}, but trainer.limit_val_batches=0 leaves out "
                "validation. Choose callbacks=default, or validate."
            )


_KNOWN_PACKAGES = ("perceiver", "lightning", "torch", "torchmetrics")


def require_defined(trainer: Trainer, task: Task, loader: Iterable[Batch] | None) -> None:
    """Check before training that the monitored metrics are defined on the validation data; keeps the random state.

    Args:
        trainer: trainer with the callbacks that compare epochs.
        task: task that computes the metrics.
        loader: validation data, or None; only as many batches as needed are read.

    Raises:
        ValueError: a metric is undefined; the message names it, the reason and the remedy.
    """
    limit = trainer.limit_val_batches
    if loader is None or limit == 0:
        return
    most = limit if isinstance(limit, int) else None if limit == 1.0 else int(limit * len(loader))  # type: ignore[arg-type]
    names = {getattr(callback, "monitor", None) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    for name in sorted(name for name in names if isinstance(name, str) and name.startswith("val/")):
        with torch.random.fork_rng(devices=[]):
            reason = task.objective.why_undefined(name.removeprefix("val/"), _first(loader, most))
        if reason is not None:
            raise ValueError(
                f"monitor.name={name}: expected a metric that the validation split defines, but {reason}. Set "
                "monitor.name=val/loss monitor.mode=min, or validate on other data."
            )


def _first(loader: Iterable[Batch], most: int | None) -> Iterator[Batch]:
    yield from islice(loader, most)  # a generator, so that the loader starts only when a batch is requested


def monitored(trainer: Trainer) -> str | None:
    """Return the metric `val/…` that the best checkpoint is chosen by; None without such a choice."""
    monitor = _monitor(trainer)
    return None if monitor is None else monitor.monitor


def best_checkpoint(trainer: Trainer) -> Path | None:
    """Return the best checkpoint by validation, or the last without validation; None if no checkpoint is written."""
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
