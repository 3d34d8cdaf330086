"""Dense regression: values for every pixel `(B, E, H, W)`, such as optical flow; measured by the end-point error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.objectives.checks import check_statistics
from perceiver.objectives.metrics.quality import WeightedMean
from perceiver.objectives.objective import Metrics
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.dense import Dense, checked_target_mask, where_wrong
from perceiver.samples.batch import Batch


def dense_regression(
    *, mean: Sequence[float], std: Sequence[float], loss: nn.Module | None = None, num_queries: int | None = None
) -> Dense:
    """Dense regression, for a model whose head is a `perceiver.decoders.QueryDecoder` on the grid of the targets.

    The model's outputs are normalised values, `(value - mean) / std`; `Perceiver.predict` undoes this with the same spec.
    Targets are `(B, E, *grid)`. Measures `loss`, on normalised values, and `epe`, the end-point error: the Euclidean
    norm of the error in the units of the data, e.g. pixels for flow.

    Args:
        mean, std: mean and standard deviation per value, for normalisation. For flow the mean is 0, and both directions
            share one standard deviation.
        loss: `(outputs (n, E), normalised targets (n, E))` to one loss per pixel or per value, e.g.
            `torch.nn.L1Loss(reduction="none")`, `MSELoss` or `HuberLoss`; None: `EndPointError`.
        num_queries: see `Dense`.

    Raises:
        ValueError: for an invalid mean, standard deviation or number of queries.
    """
    check_statistics(mean, std)
    criterion = Fields(mean=mean, std=std, loss=EndPointError() if loss is None else loss)
    return Dense(task="dense_regression", criterion=criterion, num_queries=num_queries)


class EndPointError(nn.Module):
    """Euclidean distance of each vector to its target, the usual loss for optical flow."""

    def forward(
        self, outputs: Float[Tensor, "*places values"], target: Float[Tensor, "*places values"]
    ) -> Float[Tensor, "*places"]:
        """Return the distances `(…)` of two fields `(…, E)`. The gradient is 0 where both are equal."""
        distance: Tensor = torch.linalg.vector_norm(outputs - target, dim=-1)
        return distance


class Fields(Criterion):
    """Criterion for values per pixel; see `dense_regression`."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], loss: nn.Module) -> None:
        super().__init__(num_outputs=len(mean))
        self.loss_function = loss
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def checked(self, batch: Batch) -> Batch:
        """Return targets `(B, *grid, E)`, zeros where invalid."""
        target, values = batch.target, self.num_outputs
        if target is None:
            raise ValueError(f"batch.target: expected values (B, {values}, *grid), got None; the data has no targets.")
        if target.ndim < 3 or target.shape[:2] != (batch.size, values) or not target.is_floating_point():
            raise ValueError(
                f"batch.target: expected floating-point values ({batch.size}, {values}, *grid), channels first, got "
                f"{target.dtype} {tuple(target.shape)}."
            )
        valid = checked_target_mask(batch, channel_axes=1)
        target = target.movedim(1, -1)
        wrong = valid & ~target.isfinite().all(dim=-1)
        if bool(wrong.any()):
            where, place = where_wrong(wrong, batch.ids)
            raise ValueError(
                f"{where}: expected finite numbers, got {target[place].tolist()}. Set target_mask to False where the "
                "value is missing."
            )
        return replace(batch, target=torch.where(valid[..., None], target, 0.0).float(), target_mask=valid)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return losses `(…)` of normalised values, from outputs and targets `(…, E)`."""
        values = outputs.shape[-1]
        losses: Tensor = self.loss_function(
            outputs.reshape(-1, values), ((target - self.mean) / self.std).reshape(-1, values)
        )
        pixels = outputs.shape[:-1].numel()
        if losses.shape not in ((pixels,), (pixels, values)):
            raise ValueError(
                f"task.loss: expected {type(self.loss_function).__name__} to return a loss for each of {pixels} "
                f"pixels, or each of their {values} values, got {tuple(losses.shape)}. Losses of torch.nn need "
                "reduction=none."
            )
        return (losses.mean(dim=-1) if losses.ndim == 2 else losses).reshape(outputs.shape[:-1])

    def metrics(self) -> dict[str, Metric]:
        """Return means over valid pixels."""
        return {"loss": WeightedMean(), "epe": WeightedMean()}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        distance = torch.linalg.vector_norm(outputs * self.std + self.mean - target, dim=-1)
        for name, values in {"loss": self.losses(outputs, target), "epe": distance}.items():
            metrics[name].update(values, torch.ones_like(values))
