"""Losses of fields that keep the pixels apart. `torch.nn.L1Loss(reduction="none")` and its like serve as well."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EndPointError(nn.Module):
    """The Euclidean distance of each vector to its target, the usual loss of optical flow."""

    def forward(
        self, outputs: Float[Tensor, "*places values"], target: Float[Tensor, "*places values"]
    ) -> Float[Tensor, "*places"]:
        """`(…, E)` and `(…, E)` -> `(…)`. Where both are equal the gradient is 0."""
        distance: Tensor = torch.linalg.vector_norm(outputs - target, dim=-1)
        return distance
