"""Export of trained models as `torch.export` programs and ONNX files; `perceiver.exported` runs the latter without torch."""

from perceiver.exporting.exported_file import ExportError, export

__all__ = ["ExportError", "export"]
