"""Initial values of parameters."""

from __future__ import annotations

from torch import Tensor, nn


def truncated_normal_(x: Tensor, *, std: float) -> Tensor:
    """Fill `x` in place with a normal distribution of mean 0 that is truncated at two standard deviations."""
    return nn.init.trunc_normal_(x, std=std, a=-2 * std, b=2 * std)
