"""State of an unfinished epoch that Lightning's checkpoints lack: the epoch's metrics and its position in the data."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from perceiver.run.errors import warn
from perceiver.training import Task

KEY = "perceiver_epoch"
"""Checkpoint entry with `world_size` and `batch`, the samples per batch in all processes. Within an epoch it also has the
`metrics` so far of each process; after the epoch, the `row` of its metrics, which loggers have not yet received."""


class EpochProgress(Callback):
    """Continues the metrics of an interrupted epoch, and its data if the batch size or the number of processes changed.

    With the same number of processes, averages and counts that are logged once per epoch continue as if never interrupted.
    With a different number, the metrics of the interrupted epoch cover only its remainder.

    Lightning counts the batches of an epoch. If the batch size or the number of processes differs from the checkpoint, the
    count is rounded down to a whole batch: less than a batch is seen twice in that epoch, and no sample is left out.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the state of the current epoch of all processes."""
        epochs = trainer.fit_loop.epoch_progress.current.state_dict()
        sizes = {"world_size": trainer.world_size, "batch": _batch(trainer)}
        if epochs["processed"] >= epochs["ready"]:  # the epoch is over but not yet logged
            checkpoint[KEY] = {**sizes, "row": _row(trainer)}
            return
        own = _states(trainer, pl_module)
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint[KEY] = {**sizes, "metrics": states}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the state of this process, and set the batch count."""
        kept = checkpoint.get(KEY) or {}
        if kept.get("world_size") == trainer.world_size:
            self._kept = kept["metrics"][trainer.global_rank] if "metrics" in kept else {}
        loops = checkpoint["loops"]["fit_loop"]
        places = loops["state_dict"].get("combined_loader", [])
        place = places[0] if len(places) == 1 else {}
        count = loops["epoch_loop.batch_progress"]["current"]
        batch, samples = _batch(trainer), place.get("samples")
        if samples is None and place and kept.get("batch") not in (None, batch):
            samples = count["ready"] * kept["batch"]  # a loader with its own count, such as that of shards
        if samples is not None and batch is not None and count["ready"]:
            batches, before = samples // batch, place.get("batches", count["ready"])
            lag = count["ready"] - count["completed"]
            if batches != before:
                count.update(ready=batches, started=batches, processed=batches, completed=batches - lag)
        if changed := _changed(kept, trainer):
            within = f": the epoch continues after {samples} samples" if samples and "metrics" in kept else ""
            warn(f"the checkpoint was written with {changed}{within}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the metric objects, and the position of the loader if Lightning did not."""
        fit_loop = trainer.fit_loop
        if not fit_loop.restarting:
            self._kept = {}
            return
        for name, metric in _training_metrics(pl_module).items():
            values = self._kept.get(name, {}).get("values", {})
            if set(values) == set(metric.metric_state):
                for state, value in values.items():
                    setattr(metric, state, _moved(value, metric.device))
        # Lightning restores loaders on their creation. That is too early if a schedule has asked for the number of steps.
        if fit_loop._combined_loader_states_to_load and fit_loop._data_fetcher is not None:
            fit_loop._load_combined_loader_states()
            iter(fit_loop._data_fetcher)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the values logged before the interruption to those of the first step."""
        if not self._kept:
            return
        results = trainer.fit_loop.epoch_loop._results
        for key, state in self._kept.items():
            result = results.get(key)
            if result is None or "value" not in state:
                continue
            earlier = state["value"].to(result.value)
            if result.meta.is_mean_reduction or result.meta.is_sum_reduction:
                result.value = earlier + result.value
            elif result.meta.is_max_reduction or result.meta.is_min_reduction:
                result.value = result.meta.reduce_fx(torch.stack([earlier, result.value]))
            if "count" in state:
                result.cumulated_batch_size = state["count"].to(result.cumulated_batch_size) + result.cumulated_batch_size
        self._kept = {}


def _batch(trainer: Trainer) -> int | None:
    """Return the samples per batch in all processes; None if the data module has no batch size."""
    own = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return own * trainer.world_size if isinstance(own, int) else None


def _changed(kept: dict[str, Any], trainer: Trainer) -> str:
    """Describe a changed number of processes and the resulting global batch; empty if the number is unchanged.

    A change of the configured batch size is reported with the other settings.
    """
    before, now = kept.get("world_size", trainer.world_size), trainer.world_size
    if before == now:
        return ""
    words = f"{before} process{'es' if before > 1 else ''}, now {now}"
    old, new = kept.get("batch"), _batch(trainer)
    if old is None or new is None or old == new:
        return words
    return f"{words}, so the global batch changes from {old} to {new}"


def _row(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of an epoch that Lightning is about to log."""
    logged = trainer.fit_loop.epoch_loop._results.metrics(on_step=False)["log"]
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
    return {**{name: float(value) for name, value in logged.items()}, "epoch": trainer.current_epoch, "step": step}


def _states(trainer: Trainer, task: LightningModule) -> dict[str, dict[str, Any]]:
    """Return the values that this process has accumulated in the epoch.

    These are the states of the task's training metrics, by name, and the sums and counts of `LightningModule.log`, by key.
    """
    states: dict[str, dict[str, Any]] = {
        name: {"values": {state: _moved(value, "cpu") for state, value in metric.metric_state.items()}}
        for name, metric in _training_metrics(task).items()
    }
    for key, result in trainer.fit_loop.epoch_loop._results.items():
        if result.meta.on_epoch and result.is_tensor:
            states[key] = {"value": result.value.detach().cpu()}
            if result.meta.is_mean_reduction:
                states[key]["count"] = result.cumulated_batch_size.cpu()
    return states


def _training_metrics(task: LightningModule) -> dict[str, Metric]:
    """Return the training metrics of a `Task`, by checkpoint name: `train_loss` for `train/loss`."""
    metrics = task.training_metrics() if isinstance(task, Task) else {}
    return {name.replace("/", "_"): metric for name, metric in metrics.items()}


def _moved(value: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    return [one.detach().to(device, copy=True) for one in value]
