"""Dense prediction: one target and one decoder query per position of a grid (Perceiver IO, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.decoders import QueryDecoder
from perceiver.masking.random import chosen
from perceiver.model import Perceiver
from perceiver.objectives.checks import sample_name
from perceiver.objectives.objective import Metrics, Objective
from perceiver.objectives.supervised.criterion import Criterion
from perceiver.samples.batch import Batch


class Dense(Objective):
    """Dense prediction: a class or values per position of a grid. Made by `segmentation` and `dense_regression`.

    Positions where `Batch.target_mask` is False are ignored, whatever their content. Losses and metrics are means over the
    valid positions of a batch or a split.

    Args:
        task: name of the task in the configuration, for error messages.
        criterion: criterion for the kind of target.
        num_queries: number of valid positions per sample for the training loss, redrawn in every step. It determines the
            memory and time of the decoder; the expected loss is the loss over all positions. None: all positions.
            Evaluation uses all positions.

    Raises:
        ValueError: for an invalid number of queries.
    """

    def __init__(self, *, task: str, criterion: Criterion, num_queries: int | None = None) -> None:
        super().__init__()
        if num_queries is not None and num_queries < 1:
            raise ValueError(f"task.num_queries: expected at least 1 per sample, or null for all, got {num_queries}.")
        self.task = task
        self.criterion = criterion
        self.num_queries = num_queries

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the head must have an output for each query."""
        head = getattr(model, "head", None)
        if not isinstance(model, Perceiver) or not isinstance(head, QueryDecoder):
            raise ValueError(
                f"task: {self.task} needs a perceiver.Perceiver whose head is a perceiver.decoders.QueryDecoder (one "
                f"output per pixel), got {type(model).__name__} with {type(head).__name__}. task={self.task} sets "
                "such a head: leave model/head unset, or choose another QueryDecoder."
            )

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`; makes the target channels-last and adds its mask."""
        return self.criterion.checked(super().check(model, batch))

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the loss at some or all of the valid positions."""
        target, valid = _target_of(batch)
        places = draw_places(valid, at_most=self.num_queries)
        outputs = self._outputs(model, batch, index=places.index)
        losses = self.criterion.losses(outputs, places.taken(target, channel_axes=target.ndim - valid.ndim))
        weights = self.criterion.weights(target)
        # Over all valid positions, drawn or not: the quotient of two sums over drawn positions would be biased.
        total = valid.sum() if weights is None else torch.where(valid, weights, 0.0).sum()
        # A NaN loss at an invalid position has no weight; elsewhere it must not be hidden.
        summed = torch.where(places.weight > 0, losses * places.weight, 0.0).sum()
        return summed / total.clamp(min=torch.finfo(losses.dtype).tiny)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the criterion's metrics."""
        return self.criterion.metrics()

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        target, valid = _target_of(batch)
        outputs = self._outputs(model, batch)
        kept = valid.flatten(1)[:count]
        self.criterion.update(metrics, outputs[:count][kept], target.flatten(1, valid.ndim - 1)[:count][kept])

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the criterion's results."""
        return self.criterion.results(metrics)

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of the criterion's results."""
        return self.criterion.result_names(metrics)

    def why_undefined(self, name: str, batches: Iterable[Batch]) -> str | None:
        """Results are undefined without a valid position."""
        valid = (_target_of(self.criterion.checked(batch))[1] for batch in batches)
        return None if any(bool(mask.any()) for mask in valid) else "it has no valid pixel"

    def _outputs(self, model: nn.Module, batch: Batch, *, index: Tensor | None = None) -> Float[Tensor, "batch k outputs"]:
        """Return the model's float32 outputs at positions `(B, k)` of the flattened grid, or at all positions."""
        assert isinstance(model, Perceiver)
        tokens = model.tokens(batch.inputs, batch.masks)
        head = model.head
        assert isinstance(head, QueryDecoder)
        _, valid = _target_of(batch)
        grid, queries = tuple(valid.shape[1:]), head.queries(tokens, next(model.parameters()).device).grid
        if tuple(queries) != grid:
            raise ValueError(
                f"task: the targets have the grid {grid}, but the model's outputs have the grid {tuple(queries)}. "
                "Give the head queries on the grid of the targets: model.head.queries.grid, or those of a modality "
                "with one token per pixel."
            )
        outputs: Tensor = model.from_tokens(tokens, index=index)
        if index is None:
            outputs = outputs.flatten(1, -2)
        if outputs.shape[-1] != self.criterion.num_outputs:
            raise ValueError(
                f"task: the model has {outputs.shape[-1]} outputs for each query, but the spec's target has "
                f"{self.criterion.num_outputs}. Set model.head.output_channels."
            )
        return outputs.float()


@dataclass(frozen=True, kw_only=True)
class Places:
    """Positions at which the loss of a batch is computed.

    Args:
        index: positions in the flattened grid, `(B, k)`; None: all.
        weight: `(B, k)`: number of valid positions that each represents, 0 where invalid. The weights sum to the number of
            valid positions of the batch, so that the expected weighted sum is the sum over all valid positions.
    """

    index: Int[Tensor, "batch k"] | None
    weight: Float[Tensor, "batch k"]

    def taken(self, x: Shaped[Tensor, "batch ..."], *, channel_axes: int = 0) -> Shaped[Tensor, "batch k ..."]:
        """Return `(B, *grid)` or `(B, *grid, E)` at these positions."""
        flat = x.flatten(1, x.ndim - 1 - channel_axes)
        if self.index is None:
            return flat
        index = self.index[(..., *[None] * channel_axes)]
        return flat.gather(1, index.expand(*self.index.shape, *flat.shape[2:]))


def draw_places(valid: Bool[Tensor, "batch *grid"], *, at_most: int | None) -> Places:
    """Choose valid positions of each sample uniformly at random, with the global generator of the device.

    Args:
        valid: where the target is valid.
        at_most: number of positions per sample, or all if it has fewer; None: all, without drawing.
    """
    if at_most is None or at_most >= valid[0].numel():
        return Places(index=None, weight=valid.flatten(1).float())
    index, real = chosen(valid, at_most=at_most)
    available = valid.flatten(1).sum(dim=1, keepdim=True)
    return Places(index=index, weight=real * available / real.sum(dim=1, keepdim=True).clamp(min=1))


def checked_target_mask(batch: Batch, *, channel_axes: int) -> Bool[Tensor, "batch *grid"]:
    """Return where the target of a batch is valid.

    Args:
        batch: batch with a target `(B, …)`.
        channel_axes: number of axes after the batch axis that are not axes of the grid.

    Raises:
        ValueError: if the mask does not fit the target.
    """
    assert batch.target is not None
    grid = (batch.target.shape[0], *batch.target.shape[1 + channel_axes :])
    mask = batch.target_mask
    if mask is None:
        return torch.ones(grid, dtype=torch.bool, device=batch.target.device)
    if mask.dtype != torch.bool or tuple(mask.shape) != grid:
        raise ValueError(
            f"batch.target_mask: expected boolean {grid} like the grid of the target, True for valid; got "
            f"{mask.dtype} {tuple(mask.shape)}."
        )
    return mask


def where_wrong(wrong: Bool[Tensor, "batch *grid"], ids: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return the sample and the grid position of the first True, for error messages."""
    row, *place = wrong.nonzero()[0].tolist()
    return f"target of sample {sample_name(ids, row)!r}, pixel {place}", (row, *place)


def _target_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return target and validity of a checked batch."""
    assert batch.target is not None, "checked"
    assert batch.target_mask is not None, "checked"
    return batch.target, batch.target_mask
