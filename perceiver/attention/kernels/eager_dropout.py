"""The inner function of factored cross-attention with attention dropout, in plain PyTorch.

It works in chunks like the eager form. Each chunk is recomputed in the backward pass from the same random state, so that
scores and dropped weights are held for a single chunk only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perceiver.attention.kernels.contract import batch_size
from perceiver.attention.kernels.eager import (
    chunks,
    inner_products,
    marginal,
    rows_of,
    samples_of,
)


def read_tokens_dropped(
    queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None, *, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `eager.read_tokens` with attention weights dropped after the softmax; see there for arguments.

    Returns:
        `(B, R, C)`: sum_i p_i * k_i * rstd_i * t_i, where k_i is 0 with probability `dropout`, else 1 / (1 - dropout);
        `(B, R)`: the logarithm of the softmax's denominator before dropout; `(B, R)`: sum_i p_i * k_i, the sum of the
        remaining weights, by which the constant part of the values is multiplied.
    """
    (batch,) = batch_size(queries, *parts, rstd, mask)
    rows = queries.shape[1]
    widths = [part.shape[-1] for part in parts]

    def chunk(queries: Tensor, rstd: Tensor, mask: Tensor | None, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = inner_products(queries.split(widths, dim=-1), parts, rstd.shape[1:]) * rstd[:, None]
        if mask is not None:
            scores = torch.where(mask[:, None], scores, scores.new_full((), -torch.inf))
        top = scores.detach().amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
        powers = (scores - top).exp()
        total = powers.sum(dim=(2, 3), keepdim=True)
        dead = total == 0
        total = total.masked_fill(dead, 1.0)
        lse = (top + total.log()).masked_fill(dead, -torch.inf)[..., 0, 0]
        weights = F.dropout(powers / total, dropout)
        scaled = weights * rstd[:, None]
        return torch.cat([marginal(scaled, part) for part in parts], dim=-1), lse, weights.sum(dim=(2, 3))

    results: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    for b, r in chunks(batch, rows, rstd.shape[1] * rstd.shape[2]):
        arguments = (
            rows_of(queries, b, r).expand(b.stop - b.start, -1, -1),
            samples_of(rstd, b),
            None if mask is None else samples_of(mask, b),
            *(samples_of(part, b) for part in parts),
        )
        if r.start == 0:
            results.append([])
        results[-1].append(checkpoint(chunk, *arguments, use_reentrant=False))
    joined = [[torch.cat(pieces, dim=1) for pieces in zip(*of_samples, strict=True)] for of_samples in results]
    sums, lse, kept = (torch.cat(pieces) for pieces in zip(*joined, strict=True))
    return sums, lse, kept
