"""What every training objective does: check batches, compute a loss, measure a model. Plain torch, no Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.batch import Batch
from perceiver.objectives.checks import require_modality

CONFUSION = "confusion"
"""Name of the metric that holds a confusion matrix, rows the true classes."""

Metrics = Mapping[str, Metric]
"""Metrics of a split by name, updated in place."""


class Objective(nn.Module, ABC):
    """What a model is trained for.

    The model is an argument of every method: an objective owns no parameters of it, and one objective serves several
    models. Buffers are constants: they follow the device of the module, but keep their dtype and stay out of checkpoints.
    """

    def check_model(self, model: nn.Module) -> None:
        """Check once that the model is one that this objective can train.

        Raises:
            ValueError: it is not; names the setting to change.
        """

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """A batch as it was loaded -> the batch that `loss` and `evaluate` take, both in main memory.

        Here and not on the device, where a wrong class number kills the process and a look at the data costs time.

        Raises:
            ValueError: for a sample without any modality, or a wrong target; names the sample.
        """
        require_modality(batch)
        return batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """The loss to minimise, `()`; updates the `training_metrics` where they are given."""

    def training_metrics(self) -> dict[str, Metric]:
        """Fresh metrics of training batches besides the loss, by name."""
        return {}

    @abstractmethod
    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Fresh metrics for one split, by name. `CONFUSION` is a confusion matrix."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """Update the metrics of a split with one of its batches.

        Args:
            model: in evaluation mode.
            batch: as `check` returned it.
            metrics: those that `metrics` returned.
            count: the number of samples that count, the first ones; the rest repeats others. None: all.
            number: the number of the batch in the split.
        """

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """The numbers of a split, each `()`, by name; a number that the split does not define is left out."""
        return {name: metric.compute() for name, metric in metrics.items() if name != CONFUSION}

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Why the result `name` cannot rank models on a split; None where it can.

        Args:
            name: a name of `results`.
            batches: those of the split, as they were loaded. No more of them are read than needed.
        """
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # `module.to(torch.bfloat16)` would round the mean and scale of targets.
        constants = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, constant in constants.items():
            owner, _, own = name.rpartition(".")
            module = self.get_submodule(owner)
            setattr(module, own, constant.to(module.get_buffer(own).device))
        return self
