"""Zero gradients for parameters that a batch does not use: data-parallel processes wait for one of every parameter."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def with_zero_gradients(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """`x` as it is; a backward pass through it gives `parameters` zeros, those of them that take gradients."""
    if torch.is_grad_enabled():
        for parameter in parameters:
            if parameter.requires_grad:
                # The sum of no numbers: zero, and so is its gradient, whatever the parameter holds.
                x = x + parameter.flatten()[:0].sum().to(x.dtype)
    return x
