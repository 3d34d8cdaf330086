"""Dense regression: values for every pixel `(B, E, H, W)`, such as optical flow; measured by the end-point error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from perceiver.batch import Batch
from perceiver.model import Perceiver
from perceiver.tasks.dense_losses import EndPointError
from perceiver.tasks.dense_queries import (
    check_target_mask,
    dense_outputs,
    draw_places,
    require_num_queries,
    require_query_decoder,
    where_wrong,
)
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import OptimizerFactory, SchedulerFactory, counted, require_modality


class DenseRegressionTask(Objective):
    """Train a model to tell values of every pixel, from a query for each (Perceiver IO, section 4.2).

    The model's outputs are normalised values, `(value - mean) / std`; `Perceiver.predict` undoes that with the same spec.
    Targets are `(B, E, *grid)`, valid where `Batch.target_mask` says so, everywhere without one; what is not valid counts
    nowhere, NaN or not. Logs `train/loss`, `train/learning_rate`, and `val/` and `test/` loss and epe, one value per epoch.
    `epe`, the end-point error, is the mean over the valid pixels of a split of the Euclidean norm of the error, in the units
    of the data: for flow, pixels. Losses are means over valid pixels, too, of normalised values.

    Args:
        model: its head is a `perceiver.decoders.QueryDecoder` on the grid of the targets; saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        mean, std: what the values are normalised by, one for each; of flow the mean is 0, and the standard deviation one
            for both directions.
        loss: `(outputs (n, E), normalised targets (n, E))` to a loss for each of n pixels, or each of their values: None is
            `perceiver.tasks.dense_losses.EndPointError`; or `torch.nn.L1Loss(reduction="none")`, `MSELoss`, `HuberLoss`.
        num_queries: compute the training loss at so many valid pixels of each sample, drawn anew in every step: memory and
            time of the decoder follow them. On average it is the loss over all. None: all. Evaluation takes all pixels.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.

    Raises:
        ValueError: another head, or numbers that normalise nothing.
    """

    model: Perceiver

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        loss: nn.Module | None = None,
        num_queries: int | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        require_query_decoder(model, task="dense_regression")
        require_num_queries(num_queries)
        if not len(mean) == len(std) > 0 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
            raise ValueError(
                "task.mean, task.std: expected one finite number each for every value, standard deviations above 0; got "
                f"{list(mean)} and {list(std)}."
            )
        self.loss = EndPointError() if loss is None else loss
        self.num_queries = num_queries
        # Not in checkpoints: they hold the model, and these follow from configuration and spec.
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.val_loss, self.test_loss, self.val_epe, self.test_epe = (MeanMetric(nan_strategy="disable") for _ in range(4))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the batch while it is still in main memory, and put zeros where the target is not valid.

        Raises:
            ValueError: for a sample without any modality, missing targets, another shape, or NaN and infinity in a valid
                pixel; names the sample.
        """
        require_modality(batch)
        target, values = batch.target, len(self.mean)
        if target is None:
            raise ValueError(f"batch.target: expected values (B, {values}, *grid), got None; the data has no targets.")
        if target.ndim < 3 or target.shape[:2] != (batch.size, values) or not target.is_floating_point():
            raise ValueError(
                f"batch.target: expected floating-point values ({batch.size}, {values}, *grid), channels first, got "
                f"{target.dtype} {tuple(target.shape)}."
            )
        valid = check_target_mask(batch, channel_axes=1)
        wrong = valid & ~target.isfinite().all(dim=1)
        if bool(wrong.any()):
            where, (row, *place) = where_wrong(wrong, batch)
            raise ValueError(
                f"{where}: expected finite numbers, got {target[row].movedim(0, -1)[tuple(place)].tolist()}. "
                "Set target_mask to False where there is no value."
            )
        return replace(batch, target=torch.where(valid[:, None], target, 0.0), target_mask=valid)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss at some of the valid pixels.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        target, valid = _target_of(batch)
        places = draw_places(valid, at_most=self.num_queries)
        outputs = dense_outputs(self.model, batch, grid=valid.shape[1:], channels=target.shape[1], index=places.index)
        wanted = torch.stack([places.taken(one) for one in target.unbind(dim=1)], dim=-1)
        errors = self._losses(outputs, (wanted - self.mean) / self.std)
        loss = torch.where(places.weight > 0, errors * places.weight, 0.0).sum() / valid.sum().clamp(min=1)
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and end-point error of the validation data."""
        self._evaluate(batch, batch_idx, "val", self.val_loss, self.val_epe)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and end-point error of the test data."""
        self._evaluate(batch, batch_idx, "test", self.test_loss, self.test_epe)

    def _evaluate(self, batch: Batch, batch_idx: int, stage: str, losses: MeanMetric, epe: MeanMetric) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        target, valid = _target_of(batch)
        outputs = dense_outputs(self.model, batch, grid=valid.shape[1:], channels=target.shape[1])
        # Chosen, not weighted: a MeanMetric that does not look for NaN ignores weights.
        kept = valid.flatten(1)[:count]
        outputs, wanted = outputs[:count], target.flatten(2).movedim(1, 2)[:count]
        distance = torch.linalg.vector_norm(outputs * self.std + self.mean - wanted, dim=-1)
        if count:
            losses.update(self._losses(outputs, (wanted - self.mean) / self.std)[kept])
            epe.update(distance[kept])
        self.log(f"{stage}/loss", losses, on_step=False, on_epoch=True, batch_size=batch.size)
        self.log(f"{stage}/epe", epe, on_step=False, on_epoch=True, batch_size=batch.size, prog_bar=stage == "val")

    def _losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """`(B, k, E)` twice -> `(B, k)`."""
        losses: Tensor = self.loss(outputs.flatten(0, 1), target.flatten(0, 1))
        pixels = outputs.shape[0] * outputs.shape[1]
        if losses.shape not in ((pixels,), (pixels, outputs.shape[-1])):
            raise ValueError(
                f"task.loss: expected {type(self.loss).__name__} to give a loss for each of {pixels} pixels, or each of "
                f"their {outputs.shape[-1]} values, got {tuple(losses.shape)}. Losses of torch.nn need reduction=none."
            )
        return (losses.mean(dim=-1) if losses.ndim == 2 else losses).reshape(outputs.shape[:2])


def _target_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Target and validity."""
    assert batch.target is not None, "checked in on_before_batch_transfer"
    assert batch.target_mask is not None, "made in on_before_batch_transfer"
    return batch.target, batch.target_mask
