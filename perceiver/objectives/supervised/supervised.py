"""Supervised learning: one target per sample, of any kind that has a `Criterion`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.objectives.objective import Metrics, Objective
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.samples.batch import Batch

Mix = Callable[[Batch], Batch]
"""Map between training batches, with targets `(B, num_classes)`, e.g. `perceiver.data.MixUpCutMix`."""


class Supervised(Objective):
    """Supervised learning of one target per sample: a class, labels or values.

    Made by `classification`, `multilabel` and `regression`.

    Args:
        criterion: criterion for the kind of target.
        mix: applied to every training batch, on its device; validation and test use unmixed data.
    """

    def __init__(self, *, criterion: Criterion, mix: Mix | None = None) -> None:
        super().__init__()
        self.criterion = criterion
        self.mix = mix

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`."""
        return self.criterion.checked(super().check(model, batch))

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean loss of a batch, mixed if configured."""
        outputs, target = self._outputs(model, batch if self.mix is None else self.mix(batch))
        for metric in (metrics or {}).values():
            metric.update(outputs.detach(), target)
        losses, weights = self.criterion.losses(outputs, target), self.criterion.weights(target)
        return losses.mean() if weights is None else losses.sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)

    def training_metrics(self) -> dict[str, Metric]:
        """Return the criterion's training metrics, measured on mixed and augmented samples."""
        return self.criterion.training_metrics()

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the criterion's metrics."""
        return self.criterion.metrics()

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        outputs, target = self._outputs(model, batch)
        self.criterion.update(metrics, outputs[:count], target[:count])

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the criterion's results."""
        return self.criterion.results(metrics)

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of the criterion's results."""
        return self.criterion.result_names(metrics)

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Return the criterion's reason, from the targets alone."""
        return self.criterion.why_undefined(name, map(self.criterion.checked, batches))

    def _outputs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs: Tensor = model(batch.inputs, batch.masks)
        if outputs.shape[1:] != (self.criterion.num_outputs,):
            raise ValueError(
                f"task: the model returns {tuple(outputs.shape)}, but the target needs {self.criterion.num_outputs} "
                "outputs per sample. Set the head's number of outputs accordingly."
            )
        assert batch.target is not None, "checked"
        return outputs.float(), batch.target
