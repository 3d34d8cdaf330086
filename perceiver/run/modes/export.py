"""mode=export: the model of a checkpoint as an ONNX file or a torch.export program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.decoders import SequenceDecoder
from perceiver.exported.onnx_file import step_path
from perceiver.exporting import export
from perceiver.run.modes.inference import find_checkpoint

NAMES = {"onnx": "model.onnx", "torch": "model.pt2"}


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes `export/model.onnx`, `export/model.int8.onnx` or `export/model.pt2` beside the checkpoint.

    A model that generates texts also gets its step: `export/model.step.onnx`.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        format: onnx or torch.
        modalities: modalities of the file; None: all.
        outputs: see `perceiver.export`.
        int8: see `perceiver.export`.
        opset: see `perceiver.export`.

    Raises:
        ValueError: `format` has another value.
    """

    ckpt_path: str | None
    format: str = "onnx"
    modalities: Sequence[str] | None = None
    outputs: Literal["target", "all", "latents"] | None = None
    int8: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        if self.format not in NAMES:
            raise ValueError(f"export.format: expected onnx or torch, got {self.format!r}.")

    def run(self, config: DictConfig) -> None:
        """Export the model and print how to load the file."""
        file = find_checkpoint(self.ckpt_path, mode="export")
        model = checkpoints.load(file, trust=list(config.trust))
        name = NAMES[self.format].replace(".onnx", ".int8.onnx") if self.int8 else NAMES[self.format]
        sys.stdout.write(f"exporting {file}\n")
        sys.stdout.flush()
        path = export(
            model,
            _run_of(file) / "export" / name,
            modalities=None if self.modalities is None else list(self.modalities),
            outputs=self.outputs,
            int8=self.int8,
            opset=self.opset,
        )
        sys.stdout.write(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)\n")
        if isinstance(model.head, SequenceDecoder) and self.outputs != "latents":
            step = step_path(path)
            sys.stdout.write(f"{step} ({step.stat().st_size / 2**20:.1f} MiB): a step of the decoder\n")
        if self.format == "torch":
            sys.stdout.write(f'load it with: torch.export.load("{path}").module()\n')
        elif self.outputs in (None, "target"):
            sys.stdout.write(f'load it with: perceiver.exported.load("{path}").predict(samples)\n')
        else:
            sys.stdout.write(f'load it with: perceiver.exported.load("{path}").compute(samples)\n')


def _run_of(file: Path) -> Path:
    """Return the run directory of a checkpoint, or the folder of a file elsewhere."""
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent
