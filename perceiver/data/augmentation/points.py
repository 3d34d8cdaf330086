"""Augmentation of batches of point sets, with separate random parameters for every set.

Each transform takes points `(B, P, coordinates + features)` and their mask `(B, P)` (True is valid) or None, and returns
the same. Features are unchanged.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Points = Float[Tensor, "batch points channels"]
Mask = Bool[Tensor, "batch *points"] | None


class RandomJitter(nn.Module):
    """Move every point by an independent Gaussian step.

    Args:
        std: standard deviation of the step along each coordinate, in the unit of the coordinates.
        limit: steps are clipped to this limit. None: no limit.
        num_coordinates: number of channels that are coordinates.
    """

    def __init__(self, *, std: float, limit: float | None = None, num_coordinates: int = 3) -> None:
        super().__init__()
        _require(self, "std", std, std >= 0, "0 or more")
        _require(self, "limit", limit, limit is None or limit >= 0, "0 or more, or null")
        self.std = std
        self.limit = limit
        self.num_coordinates = _checked_coordinates(self, num_coordinates)

    def forward(self, points: Points, mask: Mask) -> tuple[Points, Mask]:
        """Transform `(B, P, channels)`; shape and mask are unchanged."""
        coordinates, features = _split(self, points)
        step = torch.randn_like(coordinates) * self.std
        if self.limit is not None:
            step = step.clamp(-self.limit, self.limit)
        return torch.cat([coordinates + step, features], dim=-1), mask

    def extra_repr(self) -> str:
        return f"std={self.std}, limit={self.limit}, num_coordinates={self.num_coordinates}"


class RandomScale(nn.Module):
    """Scale every set about the origin.

    Args:
        scale: (smallest, largest) factor, uniformly distributed.
        per_axis: draw a separate factor for every axis.
        per_point: draw a separate factor for every point (Perceiver, section 4.3: 0.99 to 1.01).
        num_coordinates: number of channels that are coordinates.
    """

    def __init__(
        self, *, scale: Sequence[float], per_axis: bool = False, per_point: bool = False, num_coordinates: int = 3
    ) -> None:
        super().__init__()
        fits = len(scale) == 2 and 0 < scale[0] <= scale[1] and math.isfinite(scale[1])
        _require(self, "scale", list(scale), fits, "0 < smallest <= largest")
        self.scale = (float(scale[0]), float(scale[1]))
        self.per_axis = per_axis
        self.per_point = per_point
        self.num_coordinates = _checked_coordinates(self, num_coordinates)

    def forward(self, points: Points, mask: Mask) -> tuple[Points, Mask]:
        """Transform `(B, P, channels)`; shape and mask are unchanged."""
        coordinates, features = _split(self, points)
        batch, number, axes = coordinates.shape
        shape = (batch, number if self.per_point else 1, axes if self.per_axis else 1)
        low, high = self.scale
        factor = low + (high - low) * torch.rand(shape, device=points.device, dtype=points.dtype)
        return torch.cat([coordinates * factor, features], dim=-1), mask

    def extra_repr(self) -> str:
        each = f"per_axis={self.per_axis}, per_point={self.per_point}"
        return f"scale={self.scale}, {each}, num_coordinates={self.num_coordinates}"


class RandomTranslation(nn.Module):
    """Move every set as a whole.

    Args:
        distance: the step along each axis is uniform in [-distance, distance], in the unit of the coordinates.
        num_coordinates: number of channels that are coordinates.
    """

    def __init__(self, *, distance: float, num_coordinates: int = 3) -> None:
        super().__init__()
        _require(self, "distance", distance, 0 <= distance < math.inf, "0 or more")
        self.distance = distance
        self.num_coordinates = _checked_coordinates(self, num_coordinates)

    def forward(self, points: Points, mask: Mask) -> tuple[Points, Mask]:
        """Transform `(B, P, channels)`; shape and mask are unchanged."""
        coordinates, features = _split(self, points)
        step = (2 * torch.rand_like(coordinates[:, :1]) - 1) * self.distance
        return torch.cat([coordinates + step, features], dim=-1), mask

    def extra_repr(self) -> str:
        return f"distance={self.distance}, num_coordinates={self.num_coordinates}"


class RandomRotation(nn.Module):
    """Rotate every set about the origin, in the plane or in space.

    Args:
        degrees: the angle is uniform in [-degrees, degrees].
        axis: 0, 1 or 2: rotate about this coordinate axis in space. None: about a random axis for every set, uniform over
            the sphere. Must be None in the plane.
        num_coordinates: number of channels that are coordinates, 2 or 3.
    """

    def __init__(self, *, degrees: float, axis: int | None = None, num_coordinates: int = 3) -> None:
        super().__init__()
        _require(self, "degrees", degrees, 0 <= degrees <= 180, "0 to 180")
        _require(self, "num_coordinates", num_coordinates, num_coordinates in (2, 3), "2 or 3")
        allowed = (0, 1, 2, None) if num_coordinates == 3 else (None,)
        _require(self, "axis", axis, axis in allowed, "0, 1, 2 or null in space, null in the plane")
        self.degrees = degrees
        self.axis = axis
        self.num_coordinates = num_coordinates

    def forward(self, points: Points, mask: Mask) -> tuple[Points, Mask]:
        """Transform `(B, P, channels)`; shape and mask are unchanged."""
        coordinates, features = _split(self, points)
        rotated = coordinates @ self.draw(coordinates).transpose(1, 2)
        return torch.cat([rotated, features], dim=-1), mask

    def draw(self, coordinates: Float[Tensor, "batch points axes"]) -> Float[Tensor, "batch axes axes"]:
        """Draw a random rotation matrix for every set; it acts on columns."""
        batch = coordinates.shape[0]
        angle = (2 * torch.rand_like(coordinates[:, 0, 0]) - 1) * math.radians(self.degrees)
        sine, cosine = angle.sin(), angle.cos()
        if self.num_coordinates == 2:
            return torch.stack([cosine, -sine, sine, cosine], dim=-1).view(-1, 2, 2)
        if self.axis is None:
            direction = torch.nn.functional.normalize(torch.randn_like(coordinates[:, 0]), dim=-1)
        else:
            direction = torch.zeros_like(coordinates[:, 0])
            direction[:, self.axis] = 1
        # Rodrigues' formula: I + sin(angle) K + (1 - cos(angle)) K K, where K v is the cross product direction x v.
        identity = torch.eye(3, device=direction.device, dtype=direction.dtype).expand(batch, 3, 3)
        cross: Tensor = torch.linalg.cross(direction[:, None].expand(-1, 3, -1), identity).transpose(1, 2)
        matrices: Tensor = identity + sine[:, None, None] * cross + (1 - cosine)[:, None, None] * (cross @ cross)
        return matrices

    def extra_repr(self) -> str:
        return f"degrees={self.degrees}, axis={self.axis}, num_coordinates={self.num_coordinates}"


class RandomPointDropout(nn.Module):
    """Drop points of every set; at least one valid point remains.

    The remaining points are packed, so that batches become smaller and training faster.

    Args:
        rate: (smallest, largest) probability of dropping a point, uniformly distributed over sets.
    """

    def __init__(self, *, rate: Sequence[float]) -> None:
        super().__init__()
        fits = len(rate) == 2 and 0 <= rate[0] <= rate[1] <= 1
        _require(self, "rate", list(rate), fits, "0 <= smallest <= largest <= 1")
        self.rate = (float(rate[0]), float(rate[1]))

    def forward(self, points: Points, mask: Mask) -> tuple[Float[Tensor, "batch kept channels"], Bool[Tensor, "batch kept"]]:
        """Transform `(B, P, channels)` to sets of the new maximum size, and a mask; absent sets stay absent."""
        batch, number, _ = points.shape
        valid = torch.ones(batch, number, dtype=torch.bool, device=points.device) if mask is None else mask
        valid = valid if valid.ndim == 2 else valid[:, None].expand(batch, number)
        low, high = self.rate
        rate = low + (high - low) * torch.rand(batch, 1, device=points.device)
        draw = torch.where(valid, torch.rand(batch, number, device=points.device), -torch.ones((), device=points.device))
        # The point with the largest random number remains at any rate.
        kept = ((draw >= rate) | (draw == draw.amax(dim=1, keepdim=True))) & valid
        width = max(1, int(kept.sum(dim=1).max()))
        order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        return points.gather(1, order[..., None].expand(-1, -1, points.shape[2])), kept.gather(1, order)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def _split(owner: nn.Module, points: Tensor) -> tuple[Tensor, Tensor]:
    """Split points into coordinates and features.

    Raises:
        ValueError: if the points have fewer channels than the transform has coordinates.
    """
    number = int(owner.num_coordinates)  # type: ignore[arg-type]
    if points.shape[-1] < number:
        raise ValueError(
            f"{type(owner).__name__}.num_coordinates: expected at most {points.shape[-1]}, the channels of a point, got "
            f"{number}."
        )
    return points[..., :number], points[..., number:]


def _checked_coordinates(owner: nn.Module, number: int) -> int:
    _require(owner, "num_coordinates", number, number >= 1, "1 or more")
    return number


def _require(owner: nn.Module, name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{type(owner).__name__}.{name}: expected {expected}, got {value}.")
