"""A graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from perceiver.exported.onnx_file import ExportedFileError, OnnxFile

Array = NDArray[Any]


class Session:
    """A loaded graph.

    Args:
        file: a checked file.
        threads: threads of a call; None: onnxruntime's choice.
        providers: execution providers, in order of preference.

    Attributes:
        path: the file.
        inputs: names of the inputs.
        types: onnxruntime's names of their types.
        outputs: names of the outputs.

    Raises:
        ExportedFileError: if onnxruntime cannot load it.
        ModuleNotFoundError: without onnxruntime.
    """

    def __init__(self, file: OnnxFile, *, threads: int | None, providers: Sequence[str]) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "perceiver.exported: onnxruntime is not installed: pip install onnxruntime (or the extra 'export').",
                name="onnxruntime",
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # Its fallback would print the error, and try again with the same providers.
            self._session = onnxruntime.InferenceSession(file.content, options, providers=list(providers), enable_fallback=0)
        except Exception as error:
            versions = file.metadata.get("versions")
            writer = versions.get("torch", "?") if isinstance(versions, dict) else "?"
            raise ExportedFileError(
                f"{file.path}: onnxruntime {onnxruntime.__version__} cannot load it (opset {file.opset}, written with torch "
                f"{str(writer)[:40]}): {' '.join(str(error).split())[:300]}"
            ) from error
        self.path = file.path
        self.inputs: list[str] = [one.name for one in self._session.get_inputs()]
        self.types: list[str] = [one.type for one in self._session.get_inputs()]
        self.outputs: list[str] = [one.name for one in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs, by name.

        Raises:
            ExportedFileError: if onnxruntime cannot compute them: the arrays do not fit the graph, or it is damaged.
        """
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, dict(inputs)), strict=True))
        except Exception as error:
            shapes = {name: x.shape for name, x in inputs.items()}
            raise ExportedFileError(
                f"{self.path}: onnxruntime cannot compute it for {str(shapes)[:300]}: {' '.join(str(error).split())[:300]}"
            ) from error
