"""Video `(B, C, T, H, W)` as tokens: patches in time and space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.tokens.masks import grid_mask, patch_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, grid_coordinates
from perceiver.tokens.tokens import Tokens


class VideoPatches(nn.Module):
    """One token per patch of frames, rows and columns: its values, optionally embedded by a linear map, and its position.

    Perceiver, section 4.2 (patches of 2 x 8 x 8 for AudioSet). Videos that are no multiple of the patch are padded with
    zeros at the end; a patch is valid if any of its elements is. Channels of a raw patch: those of the video in turn, each
    with its frames, rows and columns; or, `channels_last`, frames, rows and columns in turn, each with the video's channels.

    Args:
        video_channels: C of the video, e.g. 3.
        patch: (frames, rows, columns) of a patch.
        position: encoding of three coordinates: frames, rows and columns of patches, each from -1 to 1 over the valid size
            of the video.
        embedding_channels: width of the linear embedding; None keeps the raw `C * frames * rows * columns` values.
        channels_last: the order of values in a patch, as the published multimodal autoencoder has it.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import VideoPatches
        >>> adapter = VideoPatches(video_channels=3, patch=(2, 8, 8), position=Fourier(num_bands=4, resolution=(8, 4, 4)))
        >>> tokens = adapter(torch.rand(1, 3, 16, 32, 32))
        >>> tokens.grid, tokens.channels
        ((8, 4, 4), 411)
    """

    holds_everything = True

    def __init__(
        self,
        *,
        video_channels: int,
        patch: Sequence[int],
        position: PositionEncoding,
        embedding_channels: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if len(patch) != 3 or min(patch) < 1:
            raise ValueError(f"VideoPatches.patch: expected (frames, rows, columns), at least 1 each, got {list(patch)}.")
        if video_channels < 1:
            raise ValueError(f"VideoPatches.video_channels: expected at least 1, got {video_channels}.")
        if embedding_channels is not None and embedding_channels < 1:
            raise ValueError(
                f"VideoPatches.embedding_channels: expected at least 1, or None for raw patches, got {embedding_channels}."
            )
        self.video_channels = video_channels
        self.patch = (int(patch[0]), int(patch[1]), int(patch[2]))
        self.position = position
        self.channels_last = channels_last
        raw = video_channels * self.patch[0] * self.patch[1] * self.patch[2]
        self.embed = nn.Identity() if embedding_channels is None else nn.Linear(raw, embedding_channels)
        self.channels = (raw if embedding_channels is None else embedding_channels) + position.channels
        self.position_channels = position.channels
        self.content_channels = raw

    def forward(self, x: Float[Tensor, "batch c t h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert a video to Tokens on the grid (ceil(T / frames), ceil(H / rows), ceil(W / columns)).

        Args:
            x: `(B, C, T, H, W)`.
            mask: True where valid: `(B,)` presence, `(B, T, H, W)`, or None.

        Raises:
            ValueError: for another shape, another number of channels, or an empty video.
            TypeError: for integer values or a mask that is not boolean.
        """
        self._check(x)
        ragged = mask is not None and mask.ndim > 1
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name="VideoPatches mask")
        if mask is not None:
            x = zero_masked(x, mask[:, None])
            mask = patch_mask(mask, self.patch)
        patches = self._patches(x)
        if isinstance(self.embed, nn.Linear):
            patches = patches.to(self.embed.weight.dtype)
        # Complete or absent videos fill the grid, so the batch shares their coordinates.
        coordinates = grid_coordinates(patches.shape[1:4], mask=mask if ragged else None, device=x.device)
        return Tokens(parts=(self.embed(patches), *self.position(coordinates)), mask=mask)

    def content(self, x: Float[Tensor, "batch c t h w"], mask: Bool[Tensor, "..."] | None = None) -> Content:
        """Return the values of each patch, `(B, *grid, C * frames * rows * columns)`; values beyond the edge are invalid."""
        full = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name="VideoPatches mask")
        valid = torch.ones_like(x, dtype=torch.bool) if full is None else full[:, None].expand(x.shape)
        return Content(values=self._patches(x), valid=self._patches(valid))

    def with_content(
        self, x: Float[Tensor, "batch c t h w"], values: Float[Tensor, "batch frames rows columns content"]
    ) -> Tensor:
        """Return the video made of these patches."""
        batch, *grid = values.shape[:4]
        if self.channels_last:
            split = values.reshape(batch, *grid, *self.patch, self.video_channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
        else:
            split = values.reshape(batch, *grid, self.video_channels, *self.patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
        sizes = [count * size for count, size in zip(grid, self.patch, strict=True)]
        return split.reshape(batch, self.video_channels, *sizes)[..., : x.shape[2], : x.shape[3], : x.shape[4]]

    def _patches(self, x: Tensor) -> Tensor:
        """Cut `(B, C, T, H, W)` into `(B, *grid, values of a patch)`, padded with zeros at the end."""
        frames, rows, columns = self.patch
        x = F.pad(x, (0, -x.shape[4] % columns, 0, -x.shape[3] % rows, 0, -x.shape[2] % frames))
        batch, channels, length, height, width = x.shape
        grid = (length // frames, height // rows, width // columns)
        split = x.reshape(batch, channels, grid[0], frames, grid[1], rows, grid[2], columns)
        # channels_last: frames, rows, columns, channels; else channels first.
        return split.permute((0, 2, 4, 6, 3, 5, 7, 1) if self.channels_last else (0, 2, 4, 6, 1, 3, 5, 7)).flatten(4)

    def _check(self, x: Tensor) -> None:
        """Check shape and type of the input."""
        if x.ndim != 5 or x.shape[1] != self.video_channels or 0 in x.shape[2:]:
            hint = ""
            if x.ndim == 5 and x.shape[2] == self.video_channels:
                hint = " It looks like frames of images: use x.transpose(1, 2)."
            elif x.ndim == 5 and x.shape[4] == self.video_channels:
                hint = " It looks channels-last: use x.permute(0, 4, 1, 2, 3)."
            elif x.ndim == 4:
                hint = " Add the missing dimension with x.unsqueeze(0) (one video) or x.unsqueeze(1) (grey videos)."
            elif 0 in x.shape[2:]:
                hint = " Leave an absent video's key out, or pass zeros with a mask that is all False."
            raise ValueError(
                f"VideoPatches: expected (batch, {self.video_channels}, frames, height, width), got shape "
                f"{tuple(x.shape)}.{hint}"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"VideoPatches: expected floating point, got {x.dtype}; scale it as in training, e.g. `x.float() / 255`."
            )

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"video_channels={self.video_channels}, patch={self.patch}"
