"""The LightningModule: a model, a training objective, and an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DistributedSampler
from torchmetrics import Metric

from perceiver.objectives.metrics.quality import WeightedMean
from perceiver.objectives.objective import CONFUSION, Objective
from perceiver.samples.batch import Batch
from perceiver.training.fully_sharded import shard, with_parameters
from perceiver.training.optimizer import OptimizerFactory, SchedulerFactory, clip_gradients, optimization
from perceiver.training.precision import cast_inputs_alone


@final
class Task(LightningModule):
    """Train a model for an objective with Lightning.

    Logs one value per epoch: `train/loss`, the objective's training metrics, `train/learning_rate` at the end of the epoch,
    and the objective's results as `val/` and `test/`.

    Args:
        model: model to train; its parameters are saved under `model.`.
        objective: training objective.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        checkpoint: plain values to save in checkpoints under the key "perceiver", to rebuild the model from.

    Raises:
        ValueError: if the objective cannot train this model.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        objective.check_model(model)
        self.model = model
        self.objective = objective
        # Not submodules: metrics keep their own precision, whatever the module's.
        self._metrics: dict[str, dict[str, Metric]] = {
            "train": {"loss": WeightedMean(), **objective.training_metrics()},
            "val": objective.metrics(model),
            "test": objective.test_metrics(model),
        }
        self._confusions: dict[str, Tensor] = {}
        self._logged = False
        self._unchecked: Tensor | None = None  # sum of the losses that were not checked
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._checkpoint = dict(checkpoint) if checkpoint is not None else None

    def training_metrics(self) -> dict[str, Metric]:
        """Return the metrics that training steps update, by the name under which they are logged at the end of an epoch."""
        return {f"train/{name}": metric for name, metric in self._metrics["train"].items()}

    def logged_names(self) -> list[str]:
        """Return the names under which values of training and validation are logged."""
        validation = self.objective.result_names(self._metrics["val"])
        return [*self.training_metrics(), "train/learning_rate", *(f"val/{name}" for name in validation)]

    def confusion(self, stage: str) -> Tensor | None:
        """Return the confusion matrix `(classes, classes)` of the last pass over a stage's data, or None.

        Args:
            stage: val or test.
        """
        return self._confusions.get(stage)

    def configure_model(self) -> None:
        """See `shard`."""
        shard(self, self.model)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """See `optimization`."""
        return optimization(self.model, optimizer=self._optimizer, scheduler=self._scheduler, trainer=self.trainer)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """See `clip_gradients`."""
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def setup(self, stage: str) -> None:
        """See `cast_inputs_alone`."""
        cast_inputs_alone(self.trainer.precision_plugin)

    def on_fit_start(self) -> None:
        """See `separate_random_streams`."""
        separate_random_streams(self.global_rank)
        self._start("train")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """See `Objective.check`."""
        return self.objective.check(self.model, batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss.

        Raises:
            FloatingPointError: if the loss is not finite; further training would be useless. On a GPU this is found out at
                the next logged step, since asking in each step would keep the processor from running ahead.
        """
        metrics = self._metrics["train"]
        others = {name: metrics[name] for name in metrics if name != "loss"}
        loss: Tensor = with_parameters(self.model, self.objective.loss, batch, others)
        self._check_finite(loss, batch)
        metrics["loss"].update(loss, batch.size)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's training metrics with its last step: progress bars read them before the epoch's end."""
        if self.trainer.is_last_batch:
            self._log_training()

    def on_train_epoch_end(self) -> None:
        """Log the learning rate at the end of the epoch, and the training metrics if no batch was marked as the last."""
        self._require_finite()
        if not self._logged:
            self._log_training()
        self._logged = False
        # Not earlier: checkpoints of a validation after the last batch also contain the epoch's metrics.
        _reset(self._metrics["train"])
        self.log("train/learning_rate", self._learning_rate(), sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics, also after an interrupted pass. No checkpoint is saved after a loss that is not finite."""
        self._require_finite()
        self._start("val")

    def on_test_epoch_start(self) -> None:
        """See `on_validation_epoch_start`."""
        self._start("test")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics with one batch."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the metrics with one batch."""
        self._evaluate("test", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the results of the whole split."""
        self._log_results("val")

    def on_test_epoch_end(self) -> None:
        """Log the results of the whole split."""
        self._log_results("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the data from which `perceiver.load` rebuilds the model."""
        if self._checkpoint is not None:
            checkpoint["perceiver"] = self._checkpoint

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        with_parameters(self.model, self.objective.evaluate, batch, self._metrics[stage], count=count, number=batch_idx)

    def _log_results(self, stage: str) -> None:
        metrics = self._metrics[stage]
        for name, value in self.objective.results(metrics).items():
            # Metrics cover the samples of all processes, so all processes log the same values.
            shown = stage == "val" and "/" not in name
            self.log(f"{stage}/{name}", value.to(self.device), prog_bar=shown, sync_dist=True)
        if CONFUSION in metrics:
            self._confusions[stage] = metrics[CONFUSION].compute().cpu()
        _reset(metrics)

    def _log_training(self) -> None:
        """Log the training metrics, once per epoch."""
        self._logged = True
        for name, metric in self.training_metrics().items():
            shown = name == "train/loss"
            self.log(name, metric.compute(), on_step=False, on_epoch=True, prog_bar=shown, batch_size=1, sync_dist=True)

    def _start(self, stage: str) -> None:
        for metric in self._metrics[stage].values():
            metric.to(self.device).reset()

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        """Remember the first loss that is not finite, and raise if it is cheap to know."""
        loss = loss.detach()
        # The sum stays not finite once a loss is.
        self._unchecked = loss if self._unchecked is None else self._unchecked + loss
        if loss.device.type == "cpu" or self._logs_this_step():
            self._require_finite(batch)

    def _logs_this_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
        return (self.global_step + 1) % max(1, every) == 0

    def _require_finite(self, batch: Batch | None = None) -> None:
        losses, self._unchecked = self._unchecked, None
        if losses is not None and not bool(torch.isfinite(losses)):
            samples = "" if batch is None else f" (samples {', '.join(batch.ids[:3])}, …)"
            raise FloatingPointError(
                f"the training loss is {float(losses)} in epoch {self.current_epoch + 1}, step "
                f"{self.global_step + 1}, at a learning rate of {self._learning_rate():.3g}{samples}. "
                "Lower optimizer.lr, or set trainer.gradient_clip_val; checkpoints of earlier epochs are intact."
            )

    def _learning_rate(self) -> float:
        """Return the current learning rate of the first parameter group."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])


def counted(task: LightningModule, stage: str, batch_idx: int, size: int) -> int:
    """Return how many leading samples of an evaluation batch count; in a single process all of them.

    Lightning gives all processes the same number of samples by repeating the first samples at the end. Every sample must
    count once, so that metrics do not depend on the number of processes.

    Args:
        task: task whose trainer evaluates.
        stage: val or test.
        batch_idx: number of the batch in this process.
        size: number of samples in the batch.
    """
    loader = getattr(task.trainer, f"{stage}_dataloaders", None)
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.shuffle or sampler.drop_last:
        return size
    samples = len(sampler.dataset)  # type: ignore[arg-type]
    own = len(range(sampler.rank, samples, sampler.num_replicas))
    return max(0, min(size, own - batch_idx * int(loader.batch_size)))  # type: ignore[union-attr]


def separate_random_streams(rank: int) -> None:
    """Give every process except the first a separate random stream; call before the first batch is loaded.

    All processes have the same seed, so that they build the same model; with the same stream, augmentation, mixing and
    dropout would be identical in all processes. Loader processes inherit the separate streams. The order of samples has its
    own seed.
    """
    if rank > 0:
        seeds = np.random.SeedSequence([torch.initial_seed(), rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def _reset(metrics: Mapping[str, Metric]) -> None:
    for metric in metrics.values():
        metric.reset()
