"""Modality adapters: raw tensors in, `Tokens` out. One file per modality; write your own the same way."""

from perceiver.adapters.audio import LogMel, LogMelBins, LogMelFrames, WaveformFrames
from perceiver.adapters.image import ImageConvStem, ImagePatches, ImagePixels
from perceiver.adapters.points import Points
from perceiver.adapters.spectrum_masking import SpectrumMasking

__all__ = [
    "ImageConvStem",
    "ImagePatches",
    "ImagePixels",
    "LogMel",
    "LogMelBins",
    "LogMelFrames",
    "Points",
    "SpectrumMasking",
    "WaveformFrames",
]
