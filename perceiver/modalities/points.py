"""Point sets: centring and scaling."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit_sphere(points: Tensor, *, num_coordinates: int = 3) -> Tensor:
    """A point set `(P, coordinates + features)`, moved to the mean of its points and scaled so that the farthest is at 1.

    A set whose points are all in one place stays at 0.
    """
    coordinates = points[:, :num_coordinates]
    coordinates = coordinates - coordinates.mean(dim=0)
    radius = torch.linalg.vector_norm(coordinates, dim=1).amax()
    scaled = coordinates / torch.where(radius > 0, radius, torch.ones_like(radius))
    return torch.cat([scaled, points[:, num_coordinates:]], dim=1)
