"""Kinds of modality: conversion of raw samples of each kind to tensors for training.

One file per kind, the table in `kinds`; what they read is in `cells`, `media` and `texts`. A custom kind is a class derived
from `Modality`, in any installed package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perceiver.modalities.modality import Modality as Modality
    from perceiver.modalities.spec import ModalitySpec as ModalitySpec
    from perceiver.modalities.statistics import channel_statistics as channel_statistics
    from perceiver.modalities.texts.tokenizers import ByteTokenizer as ByteTokenizer

# Names are imported when they are first used: exported models read cells and frame images without torch.
_MODULES = {
    "ByteTokenizer": "texts.tokenizers", "Modality": "modality", "ModalitySpec": "spec", "channel_statistics": "statistics",
}  # fmt: skip

__all__ = ["ByteTokenizer", "Modality", "ModalitySpec", "channel_statistics"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'perceiver.modalities' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perceiver.modalities.{_MODULES[name]}"), name)
    return value
