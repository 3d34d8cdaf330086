"""What tasks with a target on a grid have in common: which of its places a training step asks for, and the outputs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from perceiver.batch import Batch
from perceiver.decoders import QueryDecoder
from perceiver.masking.random import chosen
from perceiver.model import Perceiver
from perceiver.tasks.training_steps import sample_name


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the loss of a batch is computed.

    Args:
        index: places in the flattened grid, `(B, k)`; None: all.
        weight: `(B, k)`: how many valid places each stands for, 0 where it is not valid. They sum to the valid places of the
            batch, so that weighted sums are those over all of them, on average over what is drawn.
    """

    index: Int[Tensor, "batch k"] | None
    weight: Float[Tensor, "batch k"]

    def taken(self, x: Shaped[Tensor, "batch *grid"]) -> Shaped[Tensor, "batch k"]:
        """`(B, *grid)` there."""
        flat = x.flatten(1)
        return flat if self.index is None else flat.gather(1, self.index)


def draw_places(valid: Bool[Tensor, "batch *grid"], *, at_most: int | None) -> Places:
    """Choose valid places of each sample at random, all alike; from the global generator of the device.

    Args:
        valid: where the target is.
        at_most: so many of each sample, all where it has fewer; None: all, and nothing is drawn.
    """
    if at_most is None or at_most >= valid[0].numel():
        return Places(index=None, weight=valid.flatten(1).float())
    index, real = chosen(valid, at_most=at_most)
    there = valid.flatten(1).sum(dim=1, keepdim=True)
    return Places(index=index, weight=real * there / real.sum(dim=1, keepdim=True).clamp(min=1))


def require_query_decoder(model: nn.Module, *, task: str) -> None:
    """Check that a model has an output for each query.

    Raises:
        ValueError: its head is no `perceiver.decoders.QueryDecoder`.
    """
    head = getattr(model, "head", None)
    if not isinstance(model, Perceiver) or not isinstance(head, QueryDecoder):
        raise ValueError(
            f"task: {task} needs a perceiver.Perceiver whose head is a perceiver.decoders.QueryDecoder, which has an output "
            f"for each pixel; got {type(model).__name__} with {type(head).__name__}. task={task} sets the head; leave "
            "model/head out, or choose another of its kind."
        )


def require_num_queries(num_queries: int | None) -> None:
    """Raise ValueError unless it is at least 1, or None."""
    if num_queries is not None and num_queries < 1:
        raise ValueError(f"task.num_queries: expected at least 1 per sample, or null for all, got {num_queries}.")


def dense_outputs(
    model: Perceiver, batch: Batch, *, grid: Sequence[int], channels: int, index: Tensor | None = None
) -> Float[Tensor, "batch k outputs"]:
    """The model's outputs at places of a flattened grid `(B, k)`, or at all of them, in float32.

    Raises:
        ValueError: the model's outputs lie on another grid, or have another number of channels.
    """
    tokens = model.tokens(batch.inputs, batch.masks)
    head = model.head
    assert isinstance(head, QueryDecoder)
    own = head.queries(tokens, next(model.parameters()).device).grid
    if tuple(own) != tuple(grid):
        raise ValueError(
            f"task: the targets lie on the grid {tuple(grid)}, but the model has outputs on the grid {tuple(own)}. Give the "
            "head queries on the grid of the targets: model.head.queries.grid, or those of a modality whose adapter makes a "
            "token of each pixel."
        )
    outputs: Tensor = model.from_tokens(tokens, index=index)
    if index is None:
        outputs = outputs.flatten(1, -2)
    if outputs.shape[-1] != channels:
        raise ValueError(
            f"task: the model has {outputs.shape[-1]} outputs for each query, but the spec's target has {channels}. Set "
            "model.head.output_channels."
        )
    return outputs.float()


def check_target_mask(batch: Batch, *, channel_axes: int) -> Bool[Tensor, "batch *grid"]:
    """Where the target of a batch is valid.

    Args:
        batch: with a target `(B, …)`.
        channel_axes: how many axes of the target, behind the first, are none of the grid.

    Raises:
        ValueError: a mask that does not go with the target.
    """
    assert batch.target is not None
    grid = (batch.target.shape[0], *batch.target.shape[1 + channel_axes :])
    mask = batch.target_mask
    if mask is None:
        return torch.ones(grid, dtype=torch.bool, device=batch.target.device)
    if mask.dtype != torch.bool or tuple(mask.shape) != grid:
        raise ValueError(
            f"batch.target_mask: expected boolean {grid}, as the grid of the target, True is valid; got {mask.dtype} "
            f"{tuple(mask.shape)}."
        )
    return mask


def where_wrong(wrong: Bool[Tensor, "batch *grid"], batch: Batch) -> tuple[str, list[int]]:
    """The sample and the place in its grid of the first True, for error messages."""
    row, *place = wrong.nonzero()[0].tolist()
    return f"target of sample {sample_name(batch.ids, row)!r}, pixel {place}", [row, *place]
