"""What the latents of a read attend to, by block of tokens: zeros for blocks that they do not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.attention.layers import CrossAttend
from perceiver.tokens.tokens import Tokens

Observe = Callable[[CrossAttend, Tensor, Sequence[Tokens], Sequence[int]], None]
"""Sees a read before it happens: the layer, the latents, the blocks that they read, and the places of these among all."""


def weights_by_block(
    layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], *, places: Sequence[int], tokens: Sequence[Tokens]
) -> tuple[Float[Tensor, "batch heads latents *grid"], ...]:
    """Return the attention weights of a read, `(B, h, N, *grid)` for each block.

    Args:
        layer: the read.
        latents: `(B or 1, N, D)` that read.
        read: the blocks as the latents read them.
        places: where these stand in `tokens`.
        tokens: all blocks.
    """
    weights = layer.attention.weights(latents, read) if places else ()
    unread, batch = latents.new_zeros(()), batch_of(tokens)
    whole = [unread.expand(batch, layer.attention.num_heads, latents.shape[1], *block.grid) for block in tokens]
    for place, weight in zip(places, weights, strict=True):
        whole[place] = weight.expand(batch, *weight.shape[1:])
    return tuple(whole)


def shares_by_block(
    layer: CrossAttend, latents: Tensor, read: Sequence[Tokens], *, places: Sequence[int], tokens: Sequence[Tokens]
) -> tuple[Float[Tensor, "batch"], ...]:
    """Return each block's share of the attention of a read, the mean over heads and latents, `(B,)`, at least in float32.

    See `weights_by_block` for arguments. Memory does not grow with latents times tokens.
    """
    shares = layer.attention.shares(latents, read) if places else ()
    batch = batch_of(tokens)
    whole = [latents.new_zeros(batch, dtype=torch.promote_types(latents.dtype, torch.float32)) for _ in tokens]
    for place, share in zip(places, shares, strict=True):
        whole[place] = share.mean(dim=(1, 2)).expand(batch)
    return tuple(whole)


def share_read(
    read: Float[Tensor, "#batch latents channels"], kept: Float[Tensor, "#batch latents channels"]
) -> Float[Tensor, "#batch latents 1"]:
    """Return the norm of what attention adds to each latent, as a share of it and the norm of the latent itself."""
    added, own = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (read, kept))
    share: Tensor = added / (added + own).clamp(min=torch.finfo(added.dtype).tiny)
    return share


def batch_of(tokens: Sequence[Tokens]) -> int:
    """Return the batch size of blocks of which some may be shared by all samples."""
    return max((block.batch for block in tokens), default=1)
