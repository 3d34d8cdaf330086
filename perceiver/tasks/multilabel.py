"""Several labels per sample, or none: a cross-entropy for each label, average precision and area under the ROC curve.

Targets are `(B, num_classes)`: booleans, or numbers from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from perceiver.batch import Batch
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import (
    OptimizerFactory,
    SchedulerFactory,
    counted,
    require_modality,
    sample_name,
)


class MultilabelTask(Objective):
    """Train a model to say of each label whether a sample has it.

    Logs `train/loss`, `train/learning_rate`, and `val/` and `test/` loss, average_precision and auroc, one value per epoch.
    Both are means over labels (macro), of those that the split can judge: see `RankingQuality`.

    Args:
        model: `(inputs, masks) -> (B, num_classes)` logits; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        num_classes: number of labels.
        positive_weights: how much more a sample that has the label weighs in the training loss than one that lacks it, for
            each label; "balanced" takes (samples without) / (samples with) of the training split, 1 where there are none;
            None weighs all alike. Validation and test report the plain loss.
        positive_counts: training samples that have each label, for "balanced"; see `perceiver.targets.labels.labels_target`.
        num_samples: training samples, for "balanced".
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        num_classes: int,
        positive_weights: Sequence[float] | Literal["balanced"] | None = None,
        positive_counts: Sequence[int] | None = None,
        num_samples: int | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        if num_classes < 1:
            raise ValueError(f"task.num_classes: expected at least 1 label, got {num_classes}.")
        self.num_classes = num_classes
        # Not in checkpoints: they hold the model, and this follows from configuration and spec.
        self.positive_weights: Tensor | None
        weights = _positive_weights(positive_weights, positive_counts, num_samples, num_classes)
        self.register_buffer("positive_weights", weights, persistent=False)
        self.val_quality, self.test_quality = RankingQuality(), RankingQuality()

    def forward(self, batch: Batch) -> Tensor:
        """Logits `(B, num_classes)` of a batch."""
        logits: Tensor = self.model(batch.inputs, batch.masks)
        return logits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the batch while it is still in main memory.

        Raises:
            ValueError: for a sample without any modality, missing targets, another shape, or numbers outside [0, 1]; names
                the sample.
        """
        require_modality(batch)
        target = batch.target
        if target is None:
            raise ValueError("batch.target: expected one row of labels per sample, got None; the data has no labels.")
        if target.ndim != 2 or target.shape[1] != self.num_classes:
            raise ValueError(
                f"batch.target: expected (B, {self.num_classes}), a column for each label, got {tuple(target.shape)}. For "
                "one class per sample choose task=classification."
            )
        wrong = ~((target >= 0) & (target <= 1)).all(dim=1)
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, index)!r}: expected booleans, or numbers from 0 to 1, got "
                f"{target[index].tolist()}."
            )
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean of the cross-entropies over samples and labels, positives weighted if so configured.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        assert batch.target is not None, "checked in on_before_batch_transfer"
        loss = self._loss(batch.target, self(batch), self.positive_weights)
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain loss; logits and targets for the metrics."""
        self._evaluate(batch, batch_idx, "val", self.val_quality)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Plain loss; logits and targets for the metrics."""
        self._evaluate(batch, batch_idx, "test", self.test_quality)

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole pass."""
        self._log_quality("val", self.val_quality)

    def on_test_epoch_end(self) -> None:
        """Metrics over the whole pass."""
        self._log_quality("test", self.test_quality)

    def _evaluate(self, batch: Batch, batch_idx: int, stage: str, quality: RankingQuality) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        assert batch.target is not None, "checked in on_before_batch_transfer"
        logits, target = self(batch)[:count], batch.target[:count]
        quality.update(logits, target)
        loss = self._loss(target, logits, None) if count else logits.sum()
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=count, sync_dist=True)

    def _log_quality(self, stage: str, quality: RankingQuality) -> None:
        for name, value in quality.compute().items():
            # A split without any positive label has no average precision: nothing is logged rather than a made-up number.
            if not bool(value.isnan()):
                self.log(f"{stage}/{name}", value, prog_bar=stage == "val", sync_dist=True)
        quality.reset()

    @staticmethod
    def _loss(target: Tensor, logits: Tensor, positive_weights: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=positive_weights)


class RankingQuality(Metric):
    """How well the logits of each label order the samples: average precision and area under the ROC curve, macro means.

    A label counts in the mean of the average precision if at least one sample has it, and in that of the area if at least
    one has it and one lacks it; the others say nothing about the model. NaN if no label counts. Targets above 0.5 are
    positive. All logits are kept until `reset`.
    """

    full_state_update = False
    higher_is_better = True
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """`(B, labels)` each."""
        self.logits.append(logits.detach().float())
        self.targets.append((targets > 0.5).int())

    def compute(self) -> dict[str, Tensor]:
        """`average_precision` and `auroc`."""
        # Processes hand over one tensor each, joined already.
        states = (self.logits, self.targets)
        logits, targets = (torch.cat(state) if isinstance(state, list) else state for state in states)
        precisions, areas = [], []
        for column, truth in zip(logits.unbind(dim=1), targets.unbind(dim=1), strict=True):
            positives = int(truth.sum())
            ranks = _ranks(column)
            if positives > 0:
                precisions.append(binary_average_precision(ranks, truth, validate_args=False))
            if 0 < positives < len(truth):
                areas.append(binary_auroc(ranks, truth, validate_args=False))
        return {"average_precision": _mean(precisions, logits), "auroc": _mean(areas, logits)}


def _ranks(scores: Tensor) -> Tensor:
    """The place of each score among the different ones, in [0, 1]: probabilities with the order and the ties of the scores.

    Both metrics go by order alone. torchmetrics would take logits through a sigmoid, which merges large ones.
    """
    different, place = scores.unique(return_inverse=True)
    ranks: Tensor = place.double() / max(len(different) - 1, 1)
    return ranks


def _mean(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values).float().mean() if values else like.new_full((), float("nan"), dtype=torch.float32)


def _positive_weights(
    weights: Sequence[float] | str | None, counts: Sequence[int] | None, num_samples: int | None, num_classes: int
) -> Tensor | None:
    """`(num_classes,)`; None weighs all alike."""
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"task.positive_weights: expected null, balanced or a list of numbers, got {weights!r}.")
        if counts is None or num_samples is None or len(counts) != num_classes:
            raise ValueError(
                f"task.positive_weights=balanced: expected positive_counts, the training samples with each of the "
                f"{num_classes} labels, and num_samples, got {counts} and {num_samples}. The data module says them in its "
                "spec, target.positives and target.samples; if it does not, give the weights as a list."
            )
        positives = torch.tensor(counts, dtype=torch.float32)
        ratio = (num_samples - positives) / positives.clamp(min=1)
        # A label that all have or none has needs no balance; a weight of 0 would switch learning it off.
        return torch.where((positives > 0) & (ratio > 0), ratio, torch.ones_like(ratio))
    given = torch.tensor([float(weight) for weight in weights])
    if len(given) != num_classes or not bool(given.isfinite().all()) or bool((given <= 0).any()):
        raise ValueError(
            f"task.positive_weights: expected {num_classes} numbers above 0, one per label, got {list(weights)}."
        )
    return given
