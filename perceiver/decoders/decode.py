"""Cross-attend from queries to latents, for any number of queries in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perceiver.attention import CrossAttend
from perceiver.runtime.data_checks import is_any
from perceiver.tokens.tokens import Tokens


def decode(
    cross_attend: CrossAttend,
    queries: Tokens,
    latents: Float[Tensor, "batch latents channels"],
    *,
    output: Callable[[Tensor], Tensor],
    chunk_size: int,
    index: Tensor | None = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch *grid outputs"]:
    """Let queries read the latents, at most `chunk_size` at a time; factored queries are expanded chunk by chunk.

    With gradients and several chunks, the backward pass recomputes each chunk, so that only outputs are kept.

    Args:
        cross_attend: cross-attend from queries `(B or 1, k, E)` to the latents.
        queries: queries on the output grid, of batch 1 if all samples share them.
        latents: latents `(B, N, D)`.
        output: map from the attention output `(B, k, E)` to outputs `(B, k, c)`.
        chunk_size: number of queries at a time.
        index: positions in the flattened grid, `(k,)` or `(B, k)`; None: all.
        mask: `(B or 1, *grid)`, or `(B or 1, k)` with an index; True is valid.

    Returns:
        `(B, *grid, c)`, or `(B, k, c)` with an index; zeros where a query is masked.

    Raises:
        ValueError: for an index beyond the grid, or an invalid shape of index or mask.
        TypeError: if the index is not integer or the mask is not boolean.
    """
    if index is not None:
        _check_index(index, queries, batch=latents.shape[0])
        queries = queries.take(index)
    grid = queries.grid
    if mask is not None:
        _check_mask(mask, grid, batch=latents.shape[0])
        own = mask if queries.mask is None else mask & queries.mask
        queries = Tokens(parts=queries.parts, mask=own)

    def read(chunk: Tokens, latents: Tensor) -> Tensor:
        dense = chunk.dense().to(cross_attend.attention.query_norm.weight.dtype)
        outputs = output(cross_attend(dense, [Tokens(parts=(latents,))]))
        valid = chunk.dense_mask()
        return outputs if valid is None else torch.where(valid[..., None], outputs, outputs.new_zeros(()))

    if queries.num_tokens <= chunk_size:
        outputs = read(queries, latents)
    else:
        recompute = torch.is_grad_enabled()
        pieces = []
        for chunk in queries.chunks(chunk_size):
            if recompute:
                piece: Tensor = checkpoint(read, chunk, latents, use_reentrant=False)
            else:
                piece = read(chunk, latents)
            pieces.append(piece)
        outputs = torch.cat(pieces, dim=1)
    return outputs.unflatten(1, grid) if len(grid) > 1 else outputs


def check_chunk_size(chunk_size: int, *, owner: str) -> None:
    """Raise ValueError unless the chunk size is at least 1."""
    if chunk_size < 1:
        raise ValueError(f"{owner}.chunk_size: expected at least 1 query at a time, got {chunk_size}.")


def _check_index(index: Tensor, queries: Tokens, *, batch: int) -> None:
    if index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f"index: expected positions in the output grid as int64, got {index.dtype}.")
    if index.ndim not in (1, 2) or (index.ndim == 2 and index.shape[0] != batch) or index.shape[-1] == 0:
        raise ValueError(
            f"index: expected positions in the output grid, (k,) or ({batch}, k), k at least 1, got {tuple(index.shape)}."
        )
    outside = (index < 0) | (index >= queries.num_tokens)
    if is_any(outside, message="index: a place is outside the output grid."):
        raise ValueError(
            f"index: expected positions in the flattened output grid {queries.grid}, 0 to {queries.num_tokens - 1}; "
            f"got {int(index.min())} to {int(index.max())}."
        )


def _check_mask(mask: Tensor, grid: tuple[int, ...], *, batch: int) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"query mask: expected dtype bool (True = valid), got {mask.dtype}.")
    if tuple(mask.shape[1:]) != grid or mask.shape[0] not in (1, batch):
        raise ValueError(f"query mask: expected {(batch, *grid)}, got {tuple(mask.shape)}.")
