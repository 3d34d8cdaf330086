"""Tokens of several steps of time series: patches, and features of a convolutional stem.

Both read what `TimeSeries` makes of a series, so they take the same inputs and know the same of missing values. Patches and
convolutions run over the steps in their order, whatever their times; the position of a token is the mean time of its steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from perceiver.adapters.conv_stages import ConvStages
from perceiver.adapters.timeseries import TimeSeries
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.masks import patch_mask
from perceiver.tokens.positions import PositionEncoding
from perceiver.tokens.tokens import Tokens


class TimeSeriesPatches(nn.Module):
    """One token per patch of steps: a linear map of their values and of the presence of each (Nie et al. 2023, PatchTST).

    Patches are counted from the first step; the last is filled up with missing values.

    Args:
        num_values, duration_seconds, step_seconds: as in `TimeSeries`.
        position: encoding of one coordinate, the mean time of the valid steps of the patch.
        patch: steps per token; patches do not overlap.
        embedding_channels: width of the linear map; None keeps the raw `patch * 2 * num_values` numbers.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import TimeSeriesPatches
        >>> adapter = TimeSeriesPatches(
        ...     num_values=2, duration_seconds=60.0, patch=8, embedding_channels=32,
        ...     position=Fourier(num_bands=4, resolution=(8,)),
        ... )
        >>> times = torch.arange(60, dtype=torch.float64)[None]
        >>> tokens = adapter({"values": torch.rand(1, 60, 2), "times": times})
        >>> tokens.grid, tokens.channels
        ((8,), 41)
    """

    def __init__(
        self,
        *,
        num_values: int,
        duration_seconds: float,
        position: PositionEncoding,
        patch: int,
        embedding_channels: int | None = None,
        step_seconds: float | None = None,
    ) -> None:
        super().__init__()
        check_at_least_one(
            "TimeSeriesPatches", patch=patch, embedding_channels=1 if embedding_channels is None else embedding_channels
        )
        self.series = TimeSeries(
            num_values=num_values, duration_seconds=duration_seconds, position=position, step_seconds=step_seconds
        )
        self.patch = patch
        raw = patch * 2 * num_values
        self.embed = nn.Identity() if embedding_channels is None else nn.Linear(raw, embedding_channels)
        self.channels = (raw if embedding_channels is None else embedding_channels) + position.channels

    def forward(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch *time"] | None = None) -> Tokens:
        """Convert series to Tokens on the grid `(ceil(T / patch),)`.

        Arguments and errors as in `TimeSeries`; a patch with any valid step is valid.
        """
        steps = self.series.steps(x, mask)
        content = steps.dense()
        content = F.pad(content, (0, 0, 0, -content.shape[1] % self.patch)).unflatten(1, (-1, self.patch)).flatten(2)
        if isinstance(self.embed, nn.Linear):
            content = content.to(self.embed.weight.dtype)
        return Tokens(
            parts=(self.embed(content), *self.series.position((self.series.middles(steps, self.patch),))),
            mask=None if steps.mask is None else patch_mask(steps.mask, (self.patch,)),
        )

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"patch={self.patch}"


class TimeSeriesConvStages(nn.Module):
    """One token per element of the features of a few convolutions over the steps of a series.

    Their inputs are the values of each step and the presence of each value.

    Args:
        num_values, duration_seconds, step_seconds: as in `TimeSeries`.
        position: encoding of one coordinate, the mean time of the valid steps of the token.
        stage_channels: width after each convolution.
        strides: stride of each convolution, 1 or 2; two of 2 make a token of four steps.
        kernel_size: steps that each convolution reads, odd.

    Raises:
        ValueError: unless there is a stride of 1 or 2 for each width; for an even kernel, or one below 3.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import TimeSeriesConvStages
        >>> adapter = TimeSeriesConvStages(
        ...     num_values=2, duration_seconds=60.0, step_seconds=1.0, position=Fourier(num_bands=4, resolution=(15,))
        ... )
        >>> tokens = adapter({"values": torch.rand(1, 60, 2)})
        >>> tokens.grid, tokens.channels
        ((15,), 105)
    """

    def __init__(
        self,
        *,
        num_values: int,
        duration_seconds: float,
        position: PositionEncoding,
        stage_channels: Sequence[int] = (32, 64, 96),
        strides: Sequence[int] = (1, 2, 2),
        kernel_size: int = 7,
        step_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.series = TimeSeries(
            num_values=num_values, duration_seconds=duration_seconds, position=position, step_seconds=step_seconds
        )
        self.stages = ConvStages(
            in_channels=2 * num_values, stage_channels=stage_channels, strides=strides, axes=1, kernel_size=kernel_size
        )
        self.stride = math.prod(strides)
        self.channels = self.stages.out_channels + position.channels

    def forward(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch *time"] | None = None) -> Tokens:
        """Convert series to Tokens on the grid `(T,)` rounded up to strides.

        Arguments and errors as in `TimeSeries`; a token with any valid step is valid.
        """
        steps = self.series.steps(x, mask)
        features, valid = self.stages(steps.dense().transpose(1, 2), steps.mask)
        middles = self.series.middles(steps, self.stride)
        return Tokens(parts=(features.transpose(1, 2), *self.series.position((middles,))), mask=valid)
