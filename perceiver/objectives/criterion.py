"""What learning one kind of target takes: checks, loss and metrics, for `Supervised` and `Dense` objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.batch import Batch
from perceiver.objectives.objective import CONFUSION, Metrics


class Criterion(nn.Module, ABC):
    """How outputs are judged against targets of one kind. Elements are samples, or places of a grid.

    Args:
        num_outputs: channels of the model's output for each element.
    """

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    @abstractmethod
    def checked(self, batch: Batch) -> Batch:
        """A batch as the data has it -> with the target that the other methods take: `(B, …)` or `(B, *grid, …)`.

        Raises:
            ValueError: for missing or wrong targets; names the sample.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The training loss of each element, or of all of them `()`, from outputs `(…, num_outputs)` in float32."""

    def weights(self, target: Tensor) -> Tensor | None:
        """How much each element weighs in the mean of `losses`, which are multiplied by it already; None: all alike."""
        return None

    def training_metrics(self) -> dict[str, Metric]:
        """Fresh metrics of outputs and targets in training, by name."""
        return {}

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Fresh metrics for one split, by name."""

    @abstractmethod
    def update(self, metrics: Metrics, outputs: Tensor, target: Tensor) -> None:
        """Update the metrics of a split with n elements, perhaps none: outputs `(n, num_outputs)`, targets `(n, …)`."""

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """The numbers of a split by name, those that it defines."""
        return {name: metric.compute() for name, metric in metrics.items() if name != CONFUSION}

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Why a result cannot rank models on a split of these checked batches; None where it can."""
        return None
