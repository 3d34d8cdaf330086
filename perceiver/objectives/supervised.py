"""Supervised learning: one target per sample, of any kind that has a `Criterion`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.batch import Batch
from perceiver.objectives.objective import CONFUSION, Objective

Mix = Callable[[Batch], Batch]
"""Training batch to training batch, targets `(B, num_classes)`: `perceiver.data.MixUpCutMix`, or anything alike."""


class Criterion(nn.Module, ABC):
    """How outputs are judged against targets of one kind: checks, loss and metrics.

    Args:
        num_outputs: channels of the model's output.
    """

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    @abstractmethod
    def checked(self, target: Tensor | None, ids: Sequence[str]) -> Tensor:
        """Targets of a batch as the data has them -> those that the other methods take.

        Raises:
            ValueError: for missing or wrong targets; names the sample.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The training loss of outputs `(B, num_outputs)`, float32."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """See `Objective.metrics`."""

    @abstractmethod
    def update(self, metrics: Mapping[str, Metric], outputs: Tensor, target: Tensor) -> None:
        """Update the metrics of a split; there may be no sample."""

    def results(self, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """See `Objective.results`."""
        return {name: metric.compute() for name, metric in metrics.items() if name != CONFUSION}

    def training_metrics(self) -> dict[str, Metric]:
        """See `Objective.training_metrics`; updated with outputs and targets."""
        return {}

    def why_undefined(self, name: str, targets: Iterable[Tensor]) -> str | None:
        """See `Objective.why_undefined`; checked targets, batch by batch."""
        return None


class Supervised(Objective):
    """Learn a target of each sample: a class, labels or values.

    `classification`, `multilabel` and `regression` make one.

    Args:
        criterion: that of the kind of target.
        mix: called on every training batch, on its device; validation and test see the data as it is.
    """

    def __init__(self, *, criterion: Criterion, mix: Mix | None = None) -> None:
        super().__init__()
        self.criterion = criterion
        self.mix = mix

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`."""
        batch = super().check(model, batch)
        return replace(batch, target=self.criterion.checked(batch.target, batch.ids))

    def loss(self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric] | None = None) -> Tensor:
        """The criterion's loss of a batch, mixed if so configured."""
        if self.mix is not None:
            batch = self.mix(batch)
        outputs, target = self._outputs(model, batch)
        for metric in (metrics or {}).values():
            metric.update(outputs.detach(), target.argmax(dim=1) if target.is_floating_point() else target)
        return self.criterion.loss(outputs, target)

    def training_metrics(self) -> dict[str, Metric]:
        """Those of the criterion: of mixed and augmented samples, as the model saw them."""
        return self.criterion.training_metrics()

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Those of the criterion."""
        return self.criterion.metrics()

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Mapping[str, Metric], *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        outputs, target = self._outputs(model, batch)
        self.criterion.update(metrics, outputs[:count], target[:count])

    def results(self, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Those of the criterion."""
        return self.criterion.results(metrics)

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """By the targets alone."""
        return self.criterion.why_undefined(name, (self.criterion.checked(one.target, one.ids) for one in batches))

    def _outputs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs: Tensor = model(batch.inputs, batch.masks)
        if outputs.shape[1:] != (self.criterion.num_outputs,):
            raise ValueError(
                f"task: the model returns {tuple(outputs.shape)}, but the target needs {self.criterion.num_outputs} outputs "
                "per sample. Give the head as many."
            )
        assert batch.target is not None, "checked"
        return outputs.float(), batch.target
