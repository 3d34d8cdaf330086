"""Data sets of the library `datasets`: names on the Hugging Face Hub, and local folders of Parquet, Arrow, images, sound."""

from perceiver.data.hf.module import HuggingFace

__all__ = ["HuggingFace"]
