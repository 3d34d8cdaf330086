"""Kinds of modality: conversion of raw samples of each kind to tensors for training.

One file per kind, the table in `kinds`. A custom kind is a class derived from `Modality`, in any installed package.
"""

from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.statistics import channel_statistics

__all__ = ["Modality", "ModalitySpec", "channel_statistics"]
