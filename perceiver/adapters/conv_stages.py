"""Stages of small convolutions before tokens: local features of images and of log-mel spectra.

A few 3 x 3 convolutions of stride 2 in place of one large patch train faster and better (Xiao et al. 2021, "Early
convolutions help transformers see better", arXiv:2106.14881); over the frames of a spectrum, they are the stem of Whisper
(Radford et al. 2022, arXiv:2212.04356). Each stage is normalised per position, so that samples do not affect one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.audio import LogMelFrames
from perceiver.adapters.image import check_image
from perceiver.runtime.ranges import check_at_least_one
from perceiver.runtime.regularising import regularising
from perceiver.tokens.masks import grid_mask, patch_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, grid_coordinates, time_coordinates
from perceiver.tokens.tokens import Tokens


class ConvStage(nn.Module):
    """Convolution, layer norm over the channels of each position, GELU.

    Padding at the start is fixed, so that a sample alone and the same sample padded at its end have the same features.

    Args:
        in_channels, out_channels: widths.
        stride: 1 or 2.
        axes: 1 for sequences, 2 for images.
        kernel_size: odd.
    """

    def __init__(self, *, in_channels: int, out_channels: int, stride: int, axes: int, kernel_size: int = 3) -> None:
        super().__init__()
        make = nn.Conv1d if axes == 1 else nn.Conv2d
        self.conv = make(in_channels, out_channels, kernel_size=kernel_size, stride=stride)
        self.kernel_size = kernel_size
        self.norm = nn.LayerNorm(out_channels)
        self.stride = stride

    def forward(
        self, x: Float[Tensor, "batch c *grid"], mask: Bool[Tensor, "batch *grid"] | None
    ) -> tuple[Float[Tensor, "batch d *smaller"], Bool[Tensor, "batch *smaller"] | None]:
        """Map `(B, C, *grid)` and its validity to `(B, D, *ceil(grid / stride))` and its validity."""
        x = zero_masked(x.to(self.conv.weight.dtype), None if mask is None else mask[:, None])
        before = (self.kernel_size - self.stride) // 2
        padding: list[int] = []
        for size in reversed(x.shape[2:]):
            outputs = (size + self.stride - 1) // self.stride
            padding += [before, (outputs - 1) * self.stride + self.kernel_size - before - size]
        x = self.norm(self.conv(F.pad(x, padding)).movedim(1, -1)).movedim(-1, 1)
        return F.gelu(x), None if mask is None else patch_mask(mask, (self.stride,) * (x.ndim - 2))


class ConvStages(nn.Module):
    """Stages one after another.

    Args:
        in_channels: width of the input.
        stage_channels: width after each stage.
        strides: stride of each stage, 1 or 2.
        axes: 1 for sequences, 2 for images.
        kernel_size: elements that each convolution reads along each axis.

    Raises:
        ValueError: for other strides, or widths below 1, or unless there is a stride for each width; for an even kernel, or
            one below 3.
    """

    def __init__(
        self, *, in_channels: int, stage_channels: Sequence[int], strides: Sequence[int], axes: int, kernel_size: int = 3
    ) -> None:
        widths = [in_channels, *stage_channels]
        if not stage_channels or len(strides) != len(stage_channels) or not set(strides) <= {1, 2}:
            raise ValueError(
                "stage_channels, strides: expected a width and a stride of 1 or 2 for each stage, got "
                f"{list(stage_channels)} and {list(strides)}."
            )
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number from 3, got {kernel_size}.")
        for width in stage_channels:
            check_at_least_one("ConvStages", stage_channels=width)
        super().__init__()
        self.stages = nn.ModuleList(
            ConvStage(in_channels=before, out_channels=after, stride=stride, axes=axes, kernel_size=kernel_size)
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.out_channels = int(widths[-1])

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `ConvStage`."""
        for stage in self.stages:
            x, mask = stage(x, mask)
        return x, mask


class ImageConvStages(nn.Module):
    """One token per element of the feature map of a few small convolutions.

    Args:
        image_channels: C of the image.
        position: encoding of two coordinates, rows and columns of the feature map.
        stage_channels: width after each 3 x 3 convolution.
        strides: stride of each convolution, 1 or 2; two of 2 make a quarter of height and width.

    Raises:
        ValueError: unless there is a stride of 1 or 2 for each width.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImageConvStages
        >>> adapter = ImageConvStages(image_channels=3, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> tokens = adapter(torch.rand(2, 3, 32, 32))
        >>> tokens.grid, tokens.channels
        ((8, 8), 114)
    """

    def __init__(
        self,
        *,
        image_channels: int,
        position: PositionEncoding,
        stage_channels: Sequence[int] = (32, 64, 96),
        strides: Sequence[int] = (2, 2, 1),
    ) -> None:
        super().__init__()
        check_at_least_one("ImageConvStages", image_channels=image_channels)
        self.image_channels = image_channels
        self.stages = ConvStages(in_channels=image_channels, stage_channels=stage_channels, strides=strides, axes=2)
        self.position = position
        self.channels = self.stages.out_channels + position.channels

    def forward(self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "..."] | None = None) -> Tokens:
        """Convert `(B, C, H, W)` and a mask `(B,)` or `(B, H, W)` to Tokens on the grid of the feature map."""
        check_image(x, self.image_channels)
        ragged = mask is not None and mask.ndim > 1
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        x, mask = self.stages(x, mask)
        position = self.position(grid_coordinates(x.shape[2:], mask=mask if ragged else None, device=x.device))
        return Tokens(parts=(x.movedim(1, -1), *position), mask=mask)


@regularising(augment=None)
class LogMelConvStages(nn.Module):
    """One token per element of the feature map of a few small convolutions over the frames of a log-mel spectrum.

    Args:
        audio_channels, sample_rate, num_mels, window_seconds, hop_seconds, duration_seconds, min_hertz,
            max_hertz, epsilon, mean, std, subtract_mean, augment: as in `LogMelFrames`.
        position: encoding of one coordinate, the time of the middle of the token's hops.
        stage_channels: width after each convolution over three frames.
        strides: stride of each convolution, 1 or 2; two of 2 make a token of four hops.

    Raises:
        ValueError: unless there is a stride of 1 or 2 for each width.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import LogMelConvStages
        >>> adapter = LogMelConvStages(
        ...     sample_rate=8000, num_mels=40, window_seconds=0.025, hop_seconds=0.01, duration_seconds=1.0,
        ...     position=Fourier(num_bands=4, resolution=(25,)),
        ... )
        >>> tokens = adapter(torch.rand(2, 1, 8000))
        >>> tokens.grid, tokens.channels
        ((25,), 137)
    """

    def __init__(
        self,
        *,
        audio_channels: int = 1,
        sample_rate: int,
        num_mels: int,
        window_seconds: float,
        hop_seconds: float,
        duration_seconds: float,
        position: PositionEncoding,
        stage_channels: Sequence[int] = (128, 128),
        strides: Sequence[int] = (2, 2),
        min_hertz: float = 0.0,
        max_hertz: float | None = None,
        epsilon: float = 1e-6,
        mean: float = 0.0,
        std: float = 1.0,
        subtract_mean: bool = False,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spectrum = LogMelFrames(
            audio_channels=audio_channels,
            sample_rate=sample_rate,
            num_mels=num_mels,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            duration_seconds=duration_seconds,
            position=position,
            min_hertz=min_hertz,
            max_hertz=max_hertz,
            epsilon=epsilon,
            mean=mean,
            std=std,
            subtract_mean=subtract_mean,
            augment=augment,
        )
        self.stages = ConvStages(
            in_channels=self.spectrum.content_channels, stage_channels=stage_channels, strides=strides, axes=1
        )
        self.duration_seconds = duration_seconds
        self.step_seconds = self.spectrum.log_mel.step_seconds * math.prod(strides)
        self.channels = self.stages.out_channels + position.channels

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Tokens:
        """Waveform -> Tokens on the grid `(T,)`, T = ceil(samples / hop / strides).

        Arguments and errors as in `WaveformFrames`; a token with any valid sample is valid.
        """
        hops = self.spectrum(x, mask)
        features, valid = self.stages(hops.parts[0].transpose(1, 2), hops.mask)
        times = time_coordinates(
            features.shape[2],
            step_seconds=self.step_seconds,
            duration_seconds=self.duration_seconds,
            offset_seconds=self.step_seconds / 2,
            device=x.device,
        )
        return Tokens(parts=(features.transpose(1, 2), *self.spectrum.position((times,))), mask=valid)
