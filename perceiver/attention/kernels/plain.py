"""The inner function of factored cross-attention in plain operators, for exported models: no custom operator, no loops."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.kernels.standard import standardise


def read_tokens(queries: Tensor, parts: list[Tensor], rstd: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the function of `eager.read_tokens`, with all scores in memory at once."""
    split = queries.split([part.shape[-1] for part in parts], dim=-1)
    scores = reduce(torch.add, (_inner_product(own, part) for own, part in zip(split, parts, strict=True)))
    scores = scores * rstd[:, None]
    if mask is not None:
        # Finite, so that rows without a valid token yield no NaN.
        scores = torch.where(mask[:, None], scores, torch.finfo(scores.dtype).min)
    top = scores.amax(dim=(2, 3), keepdim=True)
    weights = (scores - top).exp()
    if mask is not None:
        weights = torch.where(mask[:, None], weights, 0.0)
    total = weights.sum(dim=(2, 3))
    lse = top[..., 0, 0] + total.log()
    weights = weights * rstd[:, None]
    sums = torch.cat([_marginal(weights, part) for part in parts], dim=-1)
    if mask is not None:
        total = torch.where(total == 0, 1.0, total)
    return sums / total[..., None], lse


KERNEL = Kernel(read=read_tokens, standardise=standardise)


def _inner_product(rows: Tensor, part: Tensor) -> Tensor:
    """Rows `(b, r, c)` times a part `(b, o, i, c)` at its own shape: `(b, r, o, i)`."""
    product = rows @ part.flatten(1, 2).transpose(1, 2)
    return product.reshape(*product.shape[:2], *part.shape[1:3])


def _marginal(weights: Tensor, part: Tensor) -> Tensor:
    """Sum weights `(b, r, outer, inner)` times a part over the tokens: `(b, r, c)`. Constant axes are summed first."""
    for axis in (1, 2):
        if part.shape[axis] == 1 and weights.shape[axis + 1] != 1:
            weights = weights.sum(dim=axis + 1, keepdim=True)
    return weights.flatten(2) @ part.flatten(1, 2)
