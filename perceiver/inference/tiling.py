"""Dense prediction in overlapping tiles for images larger than in training, blended by weights that fall towards edges.

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
    """Return the start of each tile along an axis: the first at 0, the last at the end, overlapping by at least `overlap`.

    Args:
        size: length of the axis.
        tile: length of a tile.
        overlap: smallest overlap of neighbouring tiles, below `tile`.
    """
    if tile >= size:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def tile_weights(height: int, width: int) -> Float[Tensor, "height width"]:
    """Return the weight of each pixel of a tile: its distance from the nearest edge, at least 1, float32."""
    rows, columns = (
        torch.minimum(steps + 1, size - steps)
        for steps, size in ((torch.arange(float(height)), height), (torch.arange(float(width)), width))
    )
    return torch.minimum(rows[:, None], columns[None, :])


@torch.no_grad()
def over_tiles(
    compute: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *any h w"], *, tile: Sequence[int], overlap: int = 20
) -> Float[Tensor, "batch values h w"]:
    """Apply `compute` to tiles and combine its outputs over the whole image.

    An image that is not larger than a tile is computed at once. Where tiles overlap, outputs are averaged with
    `tile_weights`.

    Args:
        compute: function from a tile `(B, …, h, w)` to outputs `(B, E, h, w)`.
        x: `(B, …, H, W)`.
        tile: [height, width] of a tile; use the training size, since models know positions relative to the whole image.
        overlap: smallest overlap of neighbouring tiles, in pixels.

    Raises:
        ValueError: for a tile without pixels, or an overlap that is negative or not below the size of a tile.
    """
    if len(tile) != 2 or min(tile) < 1 or not 0 <= overlap < min(tile):
        raise ValueError(
            "tile, overlap: expected [height, width] in pixels, and an overlap of at least 0 and less than both, got "
            f"{list(tile)} and {overlap}."
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
                    f"compute: expected shape ({x.shape[0]}, values, {tall}, {wide}) for a tile, got {tuple(made.shape)}."
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
    """Predict the optical flow, or another field, of frames of any size; in evaluation mode, without gradients.

    The published model, `perceiver.interop`'s PerceiverForOpticalFlow, takes frames in [-1, 1], `tile=[368, 496]` and
    `scale=20`.

    Args:
        model: a model with a single modality and an output for each pixel.
        frames: `(B, C, T, H, W)`, normalised as in training.
        tile: [height, width] of a tile; None: the size of the training frames in the model's spec.
        overlap: smallest overlap of neighbouring tiles, in pixels.
        scale: factor of the outputs; None: undo the normalisation according to the model's spec.

    Raises:
        ValueError: if `tile` or `scale` is missing and the spec does not give it, or if the model has several modalities.

    Examples:
        >>> import torch
        >>> from perceiver import Encoder, Fourier, InputQueries, Perceiver, QueryDecoder, flow_in_tiles
        >>> from perceiver.adapters import FrameSurroundings
        >>> frames = FrameSurroundings(video_channels=3, position=Fourier(num_bands=4, resolution=(16, 16)))
        >>> encoder = Encoder(token_channels=frames.channels, num_latents=4, latent_channels=16, num_self_heads=2)
        >>> queries = InputQueries(modality="frames")
        >>> decoder = QueryDecoder(
        ...     latent_channels=16, queries=queries, token_channels=frames.channels, output_channels=2
        ... )
        >>> model = Perceiver(adapters={"frames": frames}, encoder=encoder, head=decoder)
        >>> flow_in_tiles(model, torch.rand(1, 3, 2, 24, 40), tile=[16, 16], overlap=4, scale=1.0).shape
        torch.Size([1, 2, 24, 40])
    """
    if len(model.adapters) != 1:
        raise ValueError(f"model: expected a single modality, the frames; got {sorted(model.adapters)}.")
    [name] = model.adapters
    target = target_of(model.spec)
    if tile is None:
        shape = ((model.spec or {}).get("modalities", {}).get(name, {}).get("shape") or [None])[-2:]
        if len(shape) < 2 or None in shape:
            raise ValueError("tile: expected [height, width], because the model's spec lacks the training frames' size.")
        tile = [int(length) for length in shape]
    if scale is None and not isinstance(target, FieldTarget):
        raise ValueError(
            "scale: expected a number, because the model's spec has no field target. For the published model, use 20."
        )

    def compute(part: Tensor) -> Tensor:
        outputs: Tensor = model({name: part})
        if scale is None:
            assert isinstance(target, FieldTarget)
            return target.values(outputs)
        return outputs.movedim(-1, 1) * scale

    with evaluating(model):
        return over_tiles(compute, frames, tile=tile, overlap=overlap)
