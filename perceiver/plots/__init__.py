"""Figures of models and their data, for notebooks and runs: matplotlib Figures independent of pyplot."""

from perceiver.plots.attention.maps import AttentionMaps, Looks, look
from perceiver.plots.attention.modalities import AttentionModalities
from perceiver.plots.drawings import (
    AudioDrawing,
    Drawing,
    GridDrawing,
    ImageDrawing,
    PointDrawing,
    VideoDrawing,
    drawing_of,
)
from perceiver.plots.generative.generated import GeneratedSheet, sheet, sheet_of
from perceiver.plots.generative.word_regions import word_regions
from perceiver.plots.generative.words import WordMaps
from perceiver.plots.self_supervised.autoencoding import Autoencodings
from perceiver.plots.self_supervised.filled_texts import FilledText, FilledTexts
from perceiver.plots.self_supervised.reconstruction import Reconstruction, Reconstructions, reconstruct
from perceiver.plots.self_supervised.retrieval import RetrievedSamples
from perceiver.plots.supervised.confusion import confusion_figure
from perceiver.plots.supervised.dense import Fields, Segmentations
from perceiver.plots.supervised.samples import SampleGrid

__all__ = [
    "AttentionMaps",
    "AttentionModalities",
    "AudioDrawing",
    "Autoencodings",
    "Drawing",
    "Fields",
    "FilledText",
    "FilledTexts",
    "GeneratedSheet",
    "GridDrawing",
    "ImageDrawing",
    "Looks",
    "PointDrawing",
    "Reconstruction",
    "Reconstructions",
    "RetrievedSamples",
    "SampleGrid",
    "Segmentations",
    "VideoDrawing",
    "WordMaps",
    "confusion_figure",
    "drawing_of",
    "look",
    "reconstruct",
    "sheet",
    "sheet_of",
    "word_regions",
]
