"""Hiding bands and stretches of time of log-mel spectra while a model trains (SpecAugment, Park et al. 2019, section 2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SpectrumMasking(nn.Module):
    """Sets random bands and random stretches of frames to 0, the mean of a normalised spectrum; nothing in evaluation.

    Every sample and audio channel gets places of its own, from torch's global generator. The width of each is uniform
    between 0 and the largest; stretches may fall where a batch is padded.

    Args:
        max_bands: largest number of adjacent mel bands that one mask hides; 0: none.
        max_frames: largest number of adjacent frames that one mask hides; 0: none.
        num_band_masks, num_frame_masks: how many of each.
    """

    def __init__(
        self, *, max_bands: int, max_frames: int, num_band_masks: int = 1, num_frame_masks: int = 1
    ) -> None:
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
        self.max_bands = max_bands
        self.max_frames = max_frames
        self.num_band_masks = num_band_masks
        self.num_frame_masks = num_frame_masks

    def forward(
        self, spectrum: Float[Tensor, "batch audio_channels mels frames"]
    ) -> Float[Tensor, "batch audio_channels mels frames"]:
        """`(B, audio_channels, num_mels, T)` in and out."""
        if not self.training:
            return spectrum
        from torchaudio.functional import mask_along_axis_iid  # imported here: models without sound do without

        bands, frames = spectrum.shape[2:]
        for _ in range(self.num_band_masks):
            # torchaudio's widths stay below its argument.
            spectrum = mask_along_axis_iid(spectrum, min(self.max_bands, bands) + 1, 0.0, axis=2)
        for _ in range(self.num_frame_masks):
            spectrum = mask_along_axis_iid(spectrum, min(self.max_frames, frames) + 1, 0.0, axis=3)
        return spectrum

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{self.num_band_masks} x {self.max_bands} bands, {self.num_frame_masks} x {self.max_frames} frames"
