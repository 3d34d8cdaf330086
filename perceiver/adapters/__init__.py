"""Modality adapters: raw tensors in, `Tokens` out. One file per modality; write your own the same way."""

from perceiver.adapters.image import ImageConvStem, ImagePatches, ImagePixels

__all__ = ["ImageConvStem", "ImagePatches", "ImagePixels"]
