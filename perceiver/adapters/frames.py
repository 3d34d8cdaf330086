"""Video `(B, C, T, H, W)` of few frames as tokens: pixels with their surroundings in all frames, for optical flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.tokens.masks import grid_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, grid_coordinates
from perceiver.tokens.tokens import Tokens


class FrameSurroundings(nn.Module):
    """One token per pixel: the square of pixels around it in every frame, optionally embedded, and its position.

    Perceiver IO, section 4.2: 3 x 3 pixels of two frames. Pixels beyond the edges are zero. Channels before the
    embedding: frames in turn, each with the rows and columns of the square, each with the video's channels.

    Args:
        video_channels: C of the video, e.g. 3.
        num_frames: T, fixed.
        window: side of the square, odd.
        embedding_channels: width of the linear embedding; None keeps the raw `T * window * window * C` values.
        position: encoding of two coordinates, rows and columns.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import FrameSurroundings
        >>> adapter = FrameSurroundings(video_channels=3, position=Fourier(num_bands=4, resolution=(24, 24)))
        >>> tokens = adapter(torch.rand(1, 3, 2, 24, 24))
        >>> tokens.grid, tokens.channels
        ((24, 24), 72)
    """

    def __init__(
        self,
        *,
        video_channels: int,
        position: PositionEncoding,
        num_frames: int = 2,
        window: int = 3,
        embedding_channels: int | None = None,
    ) -> None:
        super().__init__()
        if min(video_channels, num_frames, window) < 1 or window % 2 == 0:
            raise ValueError(
                "FrameSurroundings: expected at least one channel and frame and an odd window, got "
                f"video_channels={video_channels}, num_frames={num_frames}, window={window}."
            )
        if embedding_channels is not None and embedding_channels < 1:
            raise ValueError(
                f"FrameSurroundings.embedding_channels: expected at least 1, or None, got {embedding_channels}."
            )
        self.video_channels = video_channels
        self.num_frames = num_frames
        self.window = window
        self.position = position
        raw = num_frames * window * window * video_channels
        self.embed = nn.Identity() if embedding_channels is None else nn.Linear(raw, embedding_channels)
        self.channels = (raw if embedding_channels is None else embedding_channels) + position.channels

    def forward(self, x: Float[Tensor, "batch c t h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert `(B, C, T, H, W)` to Tokens on the grid `(H, W)`.

        Args:
            x: the frames.
            mask: True where valid: `(B,)` presence, `(B, H, W)` for all frames, `(B, T, H, W)`, or None. A pixel is valid
                if it is valid in any frame.

        Raises:
            ValueError: for another shape, or another number of channels or frames.
            TypeError: for integer values or a mask that is not boolean.
        """
        if x.ndim != 5 or x.shape[1:3] != (self.video_channels, self.num_frames) or 0 in x.shape[3:]:
            hint = ""
            if x.ndim == 5 and x.shape[1:3] == (self.num_frames, self.video_channels):
                hint = " It looks like frames of images: use x.transpose(1, 2)."
            raise ValueError(
                f"FrameSurroundings: expected (batch, {self.video_channels}, {self.num_frames}, height, width), got shape "
                f"{tuple(x.shape)}.{hint}"
            )
        if not x.is_floating_point():
            raise TypeError(f"FrameSurroundings: expected floating point, got {x.dtype}; scale it, e.g. `x.float() / 255`.")
        ragged = mask is not None and mask.ndim > 1
        if mask is not None and mask.shape == (x.shape[0], *x.shape[3:]):
            mask = mask[:, None].expand(-1, self.num_frames, -1, -1)
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name="FrameSurroundings mask")
        if mask is not None:
            x = zero_masked(x, mask[:, None])
            mask = mask.any(dim=1)
        batch, _, _, height, width = x.shape
        edge = self.window // 2
        padded = F.pad(x, (edge, edge, edge, edge))
        shifted = [
            padded[..., row : row + height, column : column + width]
            for row in range(self.window)
            for column in range(self.window)
        ]
        around = torch.stack(shifted, dim=3).permute(0, 4, 5, 2, 3, 1).reshape(batch, height, width, -1)
        if isinstance(self.embed, nn.Linear):
            around = around.to(self.embed.weight.dtype)
        coordinates = grid_coordinates((height, width), mask=mask if ragged else None, device=x.device)
        return Tokens(parts=(self.embed(around), *self.position(coordinates)), mask=mask)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"video_channels={self.video_channels}, num_frames={self.num_frames}, window={self.window}"
