"""Figures of models and their data, for notebooks and runs: matplotlib Figures independent of pyplot."""

from perceiver.plots.attention import AttentionMaps, Looks, look
from perceiver.plots.attention_modalities import AttentionModalities
from perceiver.plots.autoencoding import Autoencodings
from perceiver.plots.confusion import confusion_figure
from perceiver.plots.dense import Fields, Segmentations
from perceiver.plots.drawings import (
    AudioDrawing,
    Drawing,
    GridDrawing,
    ImageDrawing,
    PointDrawing,
    VideoDrawing,
    drawing_of,
)
from perceiver.plots.filled_texts import FilledText, FilledTexts
from perceiver.plots.generated import GeneratedSheet, sheet, sheet_of
from perceiver.plots.reconstruction import Reconstruction, Reconstructions, reconstruct
from perceiver.plots.retrieval import RetrievedSamples
from perceiver.plots.samples import SampleGrid
from perceiver.plots.word_regions import word_regions
from perceiver.plots.words import WordMaps

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
