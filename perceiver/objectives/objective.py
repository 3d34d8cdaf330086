"""Base class of training objectives: check batches, compute a loss, measure a model. Plain torch, no Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.objectives.checks import require_modality
from perceiver.samples.batch import Batch

CONFUSION = "confusion"
"""Name of the confusion-matrix metric; rows are true classes."""

Metrics = Mapping[str, Metric]
"""Metrics of a split by name, updated in place."""


class Objective(nn.Module, ABC):
    """A training objective: checks, loss and metrics.

    The model is an argument of every method: an objective owns no model parameters and can serve several models. Buffers
    are constants: they follow the module's device, but keep their dtype and are not saved in checkpoints.
    """

    def check_model(self, model: nn.Module) -> None:
        """Check once that this objective can train the model.

        Raises:
            ValueError: if it cannot; names the setting to change.
        """

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """Turn a loaded batch into the batch that `loss` and `evaluate` take, both in main memory.

        Checks run before the transfer: on the device a wrong class number kills the process, and every check synchronises.

        Raises:
            ValueError: for a sample without any modality, or a wrong target; names the sample.
        """
        require_modality(batch)
        return batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the loss to minimise, `()`; update the `training_metrics` if given."""

    def training_metrics(self) -> dict[str, Metric]:
        """Return new metrics of training batches besides the loss, by name."""
        return {}

    @abstractmethod
    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return new metrics for one split, by name. `CONFUSION` is a confusion matrix."""

    def test_metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return new metrics of the test split, which may measure more than validation does; by default `metrics`."""
        return self.metrics(model)

    @abstractmethod
    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """Update the metrics of a split with one of its batches.

        Args:
            model: model in evaluation mode.
            batch: result of `check`.
            metrics: result of `metrics` or `test_metrics`.
            count: number of leading samples that count; the rest are repeats. None: all.
            number: number of the batch in the split.
        """

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the results of a split by name, each `()`; results that the split does not define are omitted."""
        return {name: metric.compute() for name, metric in metrics.items() if name != CONFUSION}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names that `results` can have. Override it together with `results`."""
        return [name for name in metrics if name != CONFUSION]

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Return why the result `name` cannot rank models on a split, or None if it can.

        Args:
            name: a name of `results`.
            batches: loaded batches of the split, read only as far as needed.
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


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the sum of the losses `NAME` or `loss/NAME`, each times the weight of its NAME, by default 1."""
    return torch.as_tensor(sum(weights.get(name.removeprefix("loss/"), 1.0) * loss for name, loss in losses.items()))
