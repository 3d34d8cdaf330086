"""Regression: values `(B, outputs)`, normalised by the training split for learning, measured in the data's units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.objectives.checks import check_statistics, sample_name
from perceiver.objectives.metrics.quality import Determination, WeightedMean
from perceiver.objectives.objective import Metrics
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.objectives.supervised.supervised import Supervised
from perceiver.samples.batch import Batch


def regression(*, mean: Sequence[float], std: Sequence[float], loss: nn.Module | None = None) -> Supervised:
    """Regression, for a model `(inputs, masks) -> (B, outputs)` of normalised values, `(value - mean) / std`.

    `Perceiver.predict` undoes the normalisation with the same spec. Measures `loss`, on normalised values, `mae` and
    `r2`. `mae`, the mean absolute error, is in the units of the data, a mean over the outputs; `r2`, the coefficient of
    determination, is a mean over the outputs whose targets vary in the split; it is omitted if none varies.

    Args:
        mean, std: statistics of the training targets, per output; see `perceiver.targets.values.values_target`.
        loss: `(outputs, normalised targets) -> scalar`, a mean: `torch.nn.MSELoss`, `L1Loss`, `HuberLoss`, or a custom loss.
    """
    check_statistics(mean, std)
    return Supervised(criterion=Values(mean=mean, std=std, loss=nn.MSELoss() if loss is None else loss))


class Values(Criterion):
    """Criterion for values; see `regression`."""

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], loss: nn.Module) -> None:
        super().__init__(num_outputs=len(mean))
        self.loss_function = loss
        # Float64 keeps the digits of large means. They stay in main memory, where targets are normalised; not every device
        # supports float64.
        self._mean, self._std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std))

    def checked(self, batch: Batch) -> Batch:
        """Return normalised targets in float32; a single value per sample may be given as `(B,)`."""
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
                f"{target[index].tolist()}. Leave out samples without a value."
            )
        return replace(batch, target=((target.double() - self._mean) / self._std).float())

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of normalised values."""
        loss: Tensor = self.loss_function(outputs, target)
        return loss

    def metrics(self) -> dict[str, Metric]:
        """Return metrics of normalised values: torchmetrics sums squares in float32 and treats sums below 1e-4 as zero."""
        return {"loss": WeightedMean(), "mae": WeightedMean(), "r2": Determination(num_outputs=self.num_outputs)}

    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """See `Criterion.update`."""
        if len(target):
            metrics["loss"].update(self.losses(outputs, target).mean(), len(target))
            errors = (outputs - target).abs() * self._std.to(outputs.device, torch.float32)
            metrics["mae"].update(errors.mean(), len(target))
            metrics["r2"].update(outputs, target)

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss`, `mae` in the units of the data, and `r2` if defined."""
        found = super().results(metrics)
        return found if not bool(found["r2"].isnan()) else {name: found[name] for name in ("loss", "mae")}

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """`r2` is undefined where no target varies."""
        first = None
        for batch in batches if name == "r2" else ():
            assert batch.target is not None, "checked"
            first = batch.target[:1] if first is None else first
            if bool((batch.target != first).any()):
                return None
        return None if name != "r2" else "its targets are all equal, or it has only one sample"
