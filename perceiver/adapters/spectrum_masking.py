"""SpecAugment: random masking of bands and frames of log-mel spectra in training (Park et al. 2019, section 2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

MOST_MASKS = 256
"""Largest number of masks along an axis: each costs time, and more would hide everything."""


class SpectrumMasking(nn.Module):
    """Set random bands and random spans of frames to 0, the mean of a normalised spectrum; the identity in evaluation.

    Positions are drawn for every sample and audio channel from torch's global generator. Widths are uniform between 0 and
    the largest. Spans may lie in the padding of a batch.

    Args:
        max_bands: largest number of adjacent mel bands that a mask hides; 0 hides no bands.
        max_frames: largest number of adjacent frames that a mask hides; 0 hides no frames.
        num_band_masks, num_frame_masks: number of masks of each type.

    Examples:
        >>> import torch
        >>> from perceiver.adapters import SpectrumMasking
        >>> masking = SpectrumMasking(max_bands=8, max_frames=20)
        >>> masking(torch.rand(2, 1, 40, 100)).shape
        torch.Size([2, 1, 40, 100])
    """

    def __init__(self, *, max_bands: int, max_frames: int, num_band_masks: int = 1, num_frame_masks: int = 1) -> None:
        super().__init__()
        arguments = {
            "max_bands": max_bands,
            "max_frames": max_frames,
            "num_band_masks": num_band_masks,
            "num_frame_masks": num_frame_masks,
        }
        for name, value in arguments.items():
            if value < 0:
                raise ValueError(f"SpectrumMasking.{name}: expected 0 or more, got {value}.")
            if name.startswith("num_") and value > MOST_MASKS:
                raise ValueError(f"SpectrumMasking.{name}: expected at most {MOST_MASKS}, got {value}.")
        self.max_bands = max_bands
        self.max_frames = max_frames
        self.num_band_masks = num_band_masks
        self.num_frame_masks = num_frame_masks

    def forward(
        self, spectrum: Float[Tensor, "batch audio_channels mels frames"]
    ) -> Float[Tensor, "batch audio_channels mels frames"]:
        """Mask a spectrum `(B, audio_channels, num_mels, T)`; the shape is unchanged."""
        if not self.training:
            return spectrum
        from torchaudio.functional import mask_along_axis_iid  # imported here, because only models with sound need it

        bands, frames = spectrum.shape[2:]
        for _ in range(self.num_band_masks):
            # torchaudio's widths stay below its argument.
            spectrum = mask_along_axis_iid(spectrum, min(self.max_bands, bands) + 1, 0.0, axis=2)
        for _ in range(self.num_frame_masks):
            spectrum = mask_along_axis_iid(spectrum, min(self.max_frames, frames) + 1, 0.0, axis=3)
        return spectrum

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"{self.num_band_masks} x {self.max_bands} bands, {self.num_frame_masks} x {self.max_frames} frames"
