"""Kinds of modality: how raw samples of each kind become the tensors that a model is trained on.

One file per kind, the table in `kinds`. A kind of your own is a class derived from `Modality`, in any installed package.
"""

from perceiver.modalities.modality import Modality, ModalitySpec
from perceiver.modalities.statistics import channel_statistics

__all__ = ["Modality", "ModalitySpec", "channel_statistics"]
