"""Thermometer readings as tokens."""

from torch import Tensor, nn

from perceiver import Tokens
from perceiver.tokens.masks import grid_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, time_coordinates


class Thermometer(nn.Module):
    """One token per reading: its value and its time.

    Args:
        position: encoding of one coordinate, the time.
        step_seconds: interval between readings.
        duration_seconds: times from 0 to this value map to positions from -1 to 1.
    """

    def __init__(self, *, position: PositionEncoding, step_seconds: float, duration_seconds: float) -> None:
        super().__init__()
        self.position = position
        self.step_seconds = step_seconds
        self.duration_seconds = duration_seconds
        self.channels = 1 + position.channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        """Map readings `(B, 1, T)` and a mask `(B,)` or `(B, T)` (True is valid) to Tokens on the grid `(T,)`."""
        if x.ndim != 3 or x.shape[1] != 1:
            raise ValueError(f"Thermometer: expected readings (batch, 1, time), got shape {tuple(x.shape)}.")
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name="Thermometer mask")
        values = zero_masked(x.transpose(1, 2), None if mask is None else mask[..., None])
        # Of shape (1, T, 1), without copies for each sample: the times are the same for all.
        time = time_coordinates(
            x.shape[2], step_seconds=self.step_seconds, duration_seconds=self.duration_seconds, device=x.device
        )
        return Tokens(parts=(values, *self.position([time])), mask=mask)
