"""Models of a service: a checkpoint in PyTorch, or an exported file in onnxruntime, with the same methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from perceiver.exported import ExportedModel
    from perceiver.model import Perceiver
    from perceiver.samples.batch import Sample

# PyTorch is imported for checkpoints only: an exported model starts in half a second and takes a third of the memory.

ONNX = ".onnx"


@runtime_checkable
class ServedModel(Protocol):
    """A model that predicts for prepared samples."""

    spec: Mapping[str, Any]
    """Spec of modalities and target."""

    def prepare(self, raw: Mapping[str, Any]) -> Any:
        """Convert and check one raw sample, values by modality; ValueError or TypeError if it does not fit the spec."""
        ...

    def predict(self, samples: Sequence[Any]) -> list[Any]:
        """Predict for prepared samples as one batch; ValueError if they cannot be collated."""
        ...


def load_served(
    path: str | Path, *, device: str = "cpu", threads: int | None = None, trust: Sequence[str] = ()
) -> ServedModel:
    """Load a run directory or a checkpoint, or an exported model if the path ends in `.onnx`.

    Args:
        path: run directory, checkpoint or ONNX file.
        device: device of a checkpoint's model; exported models use the CPU.
        threads: threads of a batch; None: the library's choice.
        trust: packages whose classes a checkpoint may name, see `perceiver.load`.

    Raises:
        FileNotFoundError: if there is no such file, or no checkpoint in the run directory.
        ValueError: if the file is damaged, malicious, of another version, or predicts no target.
    """
    if Path(path).suffix == ONNX:
        from perceiver.exported import load

        return OnnxModel(load(path, threads=threads))
    from perceiver.checkpoints.file import load as load_checkpoint

    return TorchModel(load_checkpoint(path, trust=trust, device=device), name=str(path), threads=threads)


class OnnxModel:
    """An exported model."""

    def __init__(self, model: ExportedModel) -> None:
        model.require_predictions()
        self._model = model
        self.spec: Mapping[str, Any] = model.spec

    def prepare(self, raw: Mapping[str, Any]) -> Any:
        """See `ServedModel`."""
        return self._model.prepare(raw)

    def predict(self, samples: Sequence[Any]) -> list[Any]:
        """See `ServedModel`."""
        return self._model.predict_prepared(samples)


class TorchModel:
    """The model of a checkpoint.

    Args:
        model: the model.
        name: its path, for messages.
        threads: see `load_served`.
    """

    def __init__(self, model: Perceiver, *, name: str, threads: int | None) -> None:
        import torch

        from perceiver.samples.collate import Collate
        from perceiver.targets.kinds import target_of

        target = target_of(model.spec)
        if model.spec is None or target is None or not model.spec.get("modalities"):
            raise ValueError(f"{name}: the model has no class names, labels, values or texts and predicts nothing.")
        if threads is not None:
            torch.set_num_threads(threads)
        self._model = model.eval()
        self._target = target
        self._collate = Collate(modalities=model.spec["modalities"])
        self.spec: Mapping[str, Any] = model.spec

    def prepare(self, raw: Mapping[str, Any]) -> Sample:
        """See `ServedModel`."""
        from perceiver.targets.predict import prepare

        sample = prepare(raw, self.spec["modalities"], number=0, open_files=False)
        self._collate([sample])  # what would fail in a batch fails here, alone
        return sample

    def predict(self, samples: Sequence[Any]) -> list[Any]:
        """See `ServedModel`."""
        import torch

        from perceiver.targets.predict import predict_prepared

        with torch.inference_mode():
            return predict_prepared(
                self._model.target_outputs,
                self._target,
                samples,
                modalities=self.spec["modalities"],
                device=self._device,
            )

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
