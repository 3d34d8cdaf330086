"""Zero gradients for parameters that a batch does not use: data-parallel training waits for the gradient of each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def with_zero_gradients(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return `x` unchanged. A backward pass through it gives zero gradients to all trainable `parameters`."""
    if torch.is_grad_enabled():
        for parameter in parameters:
            if parameter.requires_grad:
                # The empty sum is zero, and so is its gradient, even if the parameter holds NaN.
                x = x + parameter.flatten()[:0].sum().to(x.dtype)
    return x
