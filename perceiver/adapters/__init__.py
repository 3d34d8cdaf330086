"""Adapters: raw tensors of a modality in, `Tokens` out. One file per modality; Custom adapters look the same."""

from perceiver.adapters.audio import LogMelBins, LogMelFrames, WaveformFrames
from perceiver.adapters.backbones.backbone import Backbone
from perceiver.adapters.content import Content, Invertible, Reconstructible
from perceiver.adapters.conv_stages import ImageConvStages, LogMelConvStages
from perceiver.adapters.frames import FrameSurroundings
from perceiver.adapters.image import ImageConvStem, ImagePatches, ImagePixels
from perceiver.adapters.layout import OutputLayout
from perceiver.adapters.local_context import LocalContext
from perceiver.adapters.log_mel import LogMel
from perceiver.adapters.points import Points, PointValues
from perceiver.adapters.shared import SharedAdapter
from perceiver.adapters.spectrum_masking import SpectrumMasking
from perceiver.adapters.table import Table
from perceiver.adapters.text import TextTokens
from perceiver.adapters.timeseries import TimeSeries
from perceiver.adapters.vector import Vector
from perceiver.adapters.video import VideoPatches

__all__ = [
    "Backbone",
    "FrameSurroundings",
    "Content",
    "ImageConvStages",
    "ImageConvStem",
    "ImagePatches",
    "ImagePixels",
    "Invertible",
    "LocalContext",
    "LogMel",
    "LogMelBins",
    "LogMelConvStages",
    "LogMelFrames",
    "OutputLayout",
    "PointValues",
    "Points",
    "Reconstructible",
    "SharedAdapter",
    "SpectrumMasking",
    "Table",
    "TextTokens",
    "TimeSeries",
    "Vector",
    "VideoPatches",
    "WaveformFrames",
]
