"""Checks, loss and metrics for one kind of target, used by `Supervised` and `Dense` objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.objectives.objective import CONFUSION, Metrics
from perceiver.samples.batch import Batch


class Criterion(nn.Module, ABC):
    """Compare outputs with targets of one kind. Elements are samples, or positions of a grid.

    Args:
        num_outputs: output channels of the model per element.
    """

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    @abstractmethod
    def checked(self, batch: Batch) -> Batch:
        """Check a loaded batch and return it with the target that the other methods take: `(B, …)` or `(B, *grid, …)`.

        Raises:
            ValueError: for missing or invalid targets; names the sample.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the training loss per element, or of all elements `()`, from float32 outputs `(…, num_outputs)`."""

    def weights(self, target: Tensor) -> Tensor | None:
        """Return the weight of each element, already multiplied into `losses`; None: equal weights."""
        return None

    def training_metrics(self) -> dict[str, Metric]:
        """Return new metrics of outputs and targets in training, by name."""
        return {}

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Return new metrics for one split, by name."""

    @abstractmethod
    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """Update the metrics of a split with n >= 0 elements: outputs `(n, num_outputs)`, targets `(n, …)`."""

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the results that the split defines, by name."""
        return {name: metric.compute() for name, metric in metrics.items() if name != CONFUSION}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names that `results` can have. Override it together with `results`."""
        return [name for name in metrics if name != CONFUSION]

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Return why a result cannot rank models on these checked batches, or None if it can."""
        return None
