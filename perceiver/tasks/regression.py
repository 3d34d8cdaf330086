"""Regression: numbers `(B, outputs)`, learned in standard deviations of the training split, measured in their own units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, R2Score

from perceiver.batch import Batch
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import (
    OptimizerFactory,
    SchedulerFactory,
    counted,
    require_modality,
    sample_name,
)


class RegressionTask(Objective):
    """Train a model to tell numbers.

    The model's outputs are normalised values, `(value - mean) / std`; `Perceiver.predict` undoes that with the same spec.
    Logs `train/loss`, `train/learning_rate`, and `val/` and `test/` loss, mae and r2, one value per epoch. The loss is that
    of normalised values. `mae`, the mean absolute error, is in the units of the data; it and `r2`, the coefficient of
    determination, are means over the outputs. A split of a single sample has no `r2`.

    Args:
        model: `(inputs, masks) -> (B, outputs)`; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        mean, std: of the targets of the training split, one for each output; see `perceiver.targets.values.values_target`.
        loss: `(outputs, normalised targets) -> scalar`, a mean: `torch.nn.MSELoss`, `L1Loss`, `HuberLoss`, or your own.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        loss: nn.Module | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        if not len(mean) == len(std) > 0 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
            raise ValueError(
                "task.mean, task.std: expected one finite number each for every output, standard deviations above 0; got "
                f"{list(mean)} and {list(std)}."
            )
        self.loss = nn.MSELoss() if loss is None else loss
        self.num_outputs = len(mean)
        # Float64: large means keep their digits. They stay in main memory, where targets are normalised; not every device
        # knows float64.
        self._mean, self._std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std))
        self.val_mae, self.test_mae = (MeanAbsoluteError(num_outputs=self.num_outputs) for _ in range(2))
        self.val_r2, self.test_r2 = R2Score(), R2Score()

    def forward(self, batch: Batch) -> Tensor:
        """Normalised values `(B, outputs)` of a batch."""
        outputs: Tensor = self.model(batch.inputs, batch.masks)
        return outputs

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the batch and normalise its targets, still in main memory; one value per sample may come as `(B,)`.

        Raises:
            ValueError: for a sample without any modality, missing targets, another shape, or NaN and infinity; names the
                sample.
        """
        require_modality(batch)
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected values for every sample, got None; the data has no targets.")
        if target.ndim == 1 and self.num_outputs == 1:
            target = target[:, None]
        if target.ndim != 2 or target.shape[1] != self.num_outputs:
            raise ValueError(f"batch.target: expected (B, {self.num_outputs}), got {tuple(target.shape)}.")
        wrong = ~target.isfinite().all(dim=1)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, index)!r}: expected finite numbers, got "
                f"{target[index].tolist()}. Leave samples without a value out."
            )
        normalised = (target.double() - self._mean) / self._std
        return Batch(inputs=batch.inputs, masks=batch.masks, target=normalised.float(), ids=batch.ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of normalised values.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        loss: Tensor = self.loss(self._outputs(batch), batch.target)
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of the validation data."""
        self._evaluate(batch, batch_idx, "val", self.val_mae, self.val_r2)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of the test data."""
        self._evaluate(batch, batch_idx, "test", self.test_mae, self.test_r2)

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole pass."""
        self._log_metrics("val", self.val_mae, self.val_r2)

    def on_test_epoch_end(self) -> None:
        """Metrics over the whole pass."""
        self._log_metrics("test", self.test_mae, self.test_r2)

    def _evaluate(self, batch: Batch, batch_idx: int, stage: str, mae: MeanAbsoluteError, r2: R2Score) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        assert batch.target is not None, "checked in on_before_batch_transfer"
        outputs, target = self._outputs(batch)[:count], batch.target[:count]
        # Of normalised values: torchmetrics sums squares in float32 and takes sums below 1e-4 for zero.
        if count:
            mae.update(outputs, target)
            r2.update(outputs, target)
        loss = self.loss(outputs, target) if count else outputs.sum()
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=count, sync_dist=True)

    def _log_metrics(self, stage: str, mae: MeanAbsoluteError, r2: R2Score) -> None:
        error = (mae.compute().cpu() * self._std).mean()
        self.log(f"{stage}/mae", error.float(), prog_bar=stage == "val", sync_dist=True)
        if int(self.trainer.strategy.reduce(r2.total, reduce_op="sum")) > 1:
            self.log(f"{stage}/r2", r2.compute(), prog_bar=stage == "val", sync_dist=True)
        mae.reset()
        r2.reset()

    def _outputs(self, batch: Batch) -> Tensor:
        outputs: Tensor = self(batch)
        if outputs.shape[1:] != (self.num_outputs,):
            raise ValueError(
                f"task: the model returns {tuple(outputs.shape)}, but the spec's target has {self.num_outputs} values (mean "
                "and std). Give the head as many outputs."
            )
        return outputs.float()
