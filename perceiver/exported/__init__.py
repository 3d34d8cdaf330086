"""Predictions of exported models with onnxruntime and NumPy alone: nothing here imports torch.

Images of Pillow and image files also need Pillow. `perceiver.export` writes the files.
"""

from perceiver.exported.model import ExportedModel, load
from perceiver.exported.onnx_file import ExportedFileError

__all__ = ["ExportedFileError", "ExportedModel", "load"]
