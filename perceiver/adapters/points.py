"""Point sets: `(B, P, coordinates + features)`, ragged sets by mask, in no particular order."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.tokens.masks import grid_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding
from perceiver.tokens.tokens import Tokens


class Points(nn.Module):
    """One token per point: its features, if it has any, and the encoding of its coordinates.

    Reordering the points reorders the tokens and changes nothing else (Perceiver, section 4.3, ModelNet40).

    Args:
        point_channels: values per point, coordinates first, features after them.
        num_coordinates: how many of them are coordinates.
        scale: divisor of the coordinates, in their unit (metres, for instance): about the largest absolute coordinate of the
            data. The same for all sets, so that sizes stay comparable.
        position: encoding of `num_coordinates` coordinates.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import Points
        >>> adapter = Points(point_channels=5, position=Fourier(num_bands=4, resolution=(64, 64, 64)))
        >>> tokens = adapter(torch.rand(2, 100, 5))
        >>> tokens.grid, tokens.channels
        ((100,), 29)
    """

    def __init__(
        self, *, point_channels: int, num_coordinates: int = 3, scale: float = 1.0, position: PositionEncoding
    ) -> None:
        super().__init__()
        if not 1 <= num_coordinates <= point_channels:
            raise ValueError(
                "Points: expected 1 <= num_coordinates <= point_channels (coordinates and features), "
                f"got num_coordinates={num_coordinates}, point_channels={point_channels}. "
                "Points in a plane have two coordinates (adapter points_plane)."
            )
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"Points.scale: expected a positive number, got {scale}.")
        self.point_channels = point_channels
        self.num_coordinates = num_coordinates
        self.scale = scale
        self.position = position
        self.channels = point_channels - num_coordinates + position.channels
        self.position_channels = position.channels
        self.content_channels = point_channels - num_coordinates

    def forward(
        self, x: Float[Tensor, "batch points point_channels"], mask: Bool[Tensor, "batch *points"] | None = None
    ) -> Tokens:
        """Convert points to Tokens on the grid `(P,)`.

        Args:
            x: `(B, P, point_channels)`, coordinates first.
            mask: True where valid: `(B,)` presence, `(B, P)`, or None.

        Raises:
            ValueError: for another shape, another number of channels or no points at all.
            TypeError: for integer values or a mask that is not boolean.
        """
        self._check(x)
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[1:2], name="Points mask")
        x = zero_masked(x, None if mask is None else mask[..., None])
        coordinates = x[..., : self.num_coordinates]
        # At least float32 whatever the precision setting: bfloat16 would merge points.
        coordinates = coordinates.to(torch.promote_types(x.dtype, torch.float32)) / self.scale
        features = (x[..., self.num_coordinates :],) if self.point_channels > self.num_coordinates else ()
        return Tokens(parts=(*features, *self.position((coordinates.to(torch.float32),))), mask=mask)

    def content(
        self, x: Float[Tensor, "batch points point_channels"], mask: Bool[Tensor, "batch *points"] | None = None
    ) -> Content:
        """Return the features of each point, `(B, P, features)`; its coordinates stay known."""
        return Content(values=x[..., self.num_coordinates :])

    def with_content(
        self, x: Float[Tensor, "batch points point_channels"], values: Float[Tensor, "batch points features"]
    ) -> Tensor:
        """Return the points with these features."""
        return torch.cat([x[..., : self.num_coordinates], values], dim=-1)

    def _check(self, x: Tensor) -> None:
        """Check shape and type of the input."""
        if x.ndim != 3 or x.shape[2] != self.point_channels:
            raise ValueError(
                f"Points: expected (batch, points, {self.point_channels}), {self.num_coordinates} of them "
                f"coordinates, got shape {tuple(x.shape)}. Points lie along axis 1, their values along axis 2; "
                "point_channels counts all values of a point, coordinates and features."
            )
        if not x.is_floating_point():
            raise TypeError(f"Points: expected floating point, got {x.dtype}; convert with `x.float()`.")
        if x.shape[1] == 0:
            raise ValueError(
                f"Points: expected at least one point, got shape {tuple(x.shape)}. Leave an absent set's key "
                "out, or pass one zero point with a mask that is all False."
            )

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        sizes = f"point_channels={self.point_channels}, num_coordinates={self.num_coordinates}"
        return f"{sizes}, scale={self.scale}"


class PointValues(nn.Module):
    """One token per point: all its values, and the encoding of its coordinates, for point sets that are generated.

    `Points` takes the coordinates for known and only encodes them. Here they are content, too: new values give new points.

    Args:
        point_channels, num_coordinates, scale, position: as in `Points`.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import PointValues
        >>> adapter = PointValues(point_channels=5, position=Fourier(num_bands=4, resolution=(64, 64, 64)))
        >>> tokens = adapter(torch.rand(2, 100, 5))
        >>> tokens.grid, tokens.channels
        ((100,), 32)
    """

    holds_everything = True

    def __init__(
        self, *, point_channels: int, num_coordinates: int = 3, scale: float = 1.0, position: PositionEncoding
    ) -> None:
        super().__init__()
        self.points = Points(point_channels=point_channels, num_coordinates=num_coordinates, scale=scale, position=position)
        self.channels = self.points.channels + num_coordinates
        self.content_channels = point_channels

    def forward(
        self, x: Float[Tensor, "batch points point_channels"], mask: Bool[Tensor, "batch *points"] | None = None
    ) -> Tokens:
        """Convert points to Tokens on the grid `(P,)`; see `Points.forward`."""
        tokens: Tokens = self.points(x, mask)
        mask = None if tokens.mask is None else tokens.mask[..., None]
        coordinates = zero_masked(x[..., : self.points.num_coordinates], mask)
        return Tokens(parts=(coordinates / self.points.scale, *tokens.parts), mask=tokens.mask)

    def content(
        self, x: Float[Tensor, "batch points point_channels"], mask: Bool[Tensor, "batch *points"] | None = None
    ) -> Content:
        """Return the values of each point, `(B, P, point_channels)`."""
        return Content(values=x)

    def with_content(
        self, x: Float[Tensor, "batch points point_channels"], values: Float[Tensor, "batch points point_channels"]
    ) -> Tensor:
        """Return points with these values."""
        return values
