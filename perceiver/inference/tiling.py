"""Fields over images larger than a model was trained on: tiles that overlap, blended with weights that fall to their edges.

Perceiver IO, appendix on optical flow: tiles of the training size that overlap by 20 pixels, each weighted by the distance
from its edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating
from perceiver.targets.kinds import target_of
from perceiver.targets.pixels import FieldTarget


def tile_starts(size: int, *, tile: int, overlap: int) -> list[int]:
    """Where tiles of one axis begin: at 0, and so that neighbours overlap by at least `overlap`, the last one at the end.

    Args:
        size: of the axis.
        tile: of a tile.
        overlap: of neighbours, below the tile.
    """
    if tile >= size:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def tile_weights(height: int, width: int) -> Float[Tensor, "height width"]:
    """How much each pixel of a tile counts: its distance from the nearest edge, at least 1, float32."""
    rows, columns = (
        torch.minimum(steps + 1, size - steps)
        for steps, size in ((torch.arange(float(height)), height), (torch.arange(float(width)), width))
    )
    return torch.minimum(rows[:, None], columns[None, :])


@torch.no_grad()
def over_tiles(
    compute: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *any h w"], *, tile: Sequence[int], overlap: int = 20
) -> Float[Tensor, "batch values h w"]:
    """What `compute` says of tiles, put together over the whole.

    An image no larger than a tile is computed as it is. Where tiles overlap, the mean weighted by `tile_weights` counts.

    Args:
        compute: `(B, …, h, w)` of a tile -> `(B, E, h, w)`.
        x: `(B, …, H, W)`.
        tile: [height, width] of a tile; that of the training, since models know positions relative to the whole.
        overlap: of neighbouring tiles, in pixels, at least.

    Raises:
        ValueError: for a tile without pixels, or an overlap that is none or as large as a tile.
    """
    if len(tile) != 2 or min(tile) < 1 or not 0 <= overlap < min(tile):
        raise ValueError(
            f"tile, overlap: expected [height, width] in pixels and an overlap from 0 to below both, got {list(tile)} and "
            f"{overlap}."
        )
    height, width = x.shape[-2:]
    tall, wide = min(tile[0], height), min(tile[1], width)
    weights = tile_weights(tall, wide).to(x.device)
    total: Tensor | None = None
    count = torch.zeros(height, width, device=x.device)
    for top in tile_starts(height, tile=tall, overlap=overlap):
        for left in tile_starts(width, tile=wide, overlap=overlap):
            place = (..., slice(top, top + tall), slice(left, left + wide))
            made = compute(x[place]).float()
            if made.ndim != 4 or made.shape[0] != x.shape[0] or made.shape[2:] != (tall, wide):
                raise ValueError(
                    f"compute: expected ({x.shape[0]}, values, {tall}, {wide}) of a tile, got {tuple(made.shape)}."
                )
            if total is None:
                total = made.new_zeros(*made.shape[:2], height, width)
            total[place] += made * weights
            count[place] += weights
    assert total is not None, "there is at least one tile"
    return total / count


def flow_in_tiles(
    model: Perceiver,
    frames: Float[Tensor, "batch channels time h w"],
    *,
    tile: Sequence[int] | None = None,
    overlap: int = 20,
    scale: float | None = None,
) -> Float[Tensor, "batch values h w"]:
    """The optical flow, or another field, of frames of any size; in evaluation mode, without gradients.

    The published model, `perceiver.interop`'s PerceiverForOpticalFlow, takes frames in [-1, 1], `tile=[368, 496]` and
    `scale=20`.

    Args:
        model: of one modality, with an output for each pixel.
        frames: `(B, C, T, H, W)`, normalised as in training.
        tile: [height, width]; None: the size of the training frames, as the model's spec says.
        overlap: of neighbouring tiles, in pixels, at least.
        scale: what outputs are multiplied by; None: their normalisation is undone as the model's spec says.

    Raises:
        ValueError: neither `tile` or `scale` nor a spec that says them, or a model of several modalities.
    """
    if len(model.adapters) != 1:
        raise ValueError(f"model: expected one modality, the frames; got {sorted(model.adapters)}.")
    [name] = model.adapters
    target = target_of(model.spec)
    if tile is None:
        shape = ((model.spec or {}).get("modalities", {}).get(name, {}).get("shape") or [None])[-2:]
        if len(shape) < 2 or None in shape:
            raise ValueError("tile: expected [height, width]; the model's spec does not say the training frames' size.")
        tile = [int(length) for length in shape]
    if scale is None and not isinstance(target, FieldTarget):
        raise ValueError("scale: expected a number, e.g. 20 for the published model; the model's spec has no such target.")

    def compute(part: Tensor) -> Tensor:
        outputs: Tensor = model({name: part})
        if scale is None:
            assert isinstance(target, FieldTarget)
            return target.values(outputs)
        return outputs.movedim(-1, 1) * scale

    with evaluating(model):
        return over_tiles(compute, frames, tile=tile, overlap=overlap)
