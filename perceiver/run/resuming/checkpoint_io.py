"""How Lightning's checkpoints reach the disk: atomically, and not at all onto a disk too small for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from perceiver.runtime.files import DiskFullError, atomic_write, free_bytes

# Weights and the two moments of Adam and LAMB; best, last, previous, and the one being written beside them.
_COPIES_OF_WEIGHTS, _FILES = 3, 4


class AtomicCheckpointIO(TorchCheckpointIO):
    """Local checkpoints replace the file of the same name only when they are complete and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            DiskFullError: if the disk is full; the file that was at `path` is intact.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values from `path`; whatever a caller asks for, no code that the file names is run."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


def require_disk_space(directory: Path, model: nn.Module) -> None:
    """Check, before training, that the checkpoints of `model` will fit into `directory`.

    Raises:
        DiskFullError: if less than about four checkpoints' worth of bytes is free.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoint = weights * _COPIES_OF_WEIGHTS
    free = free_bytes(directory)
    if free < checkpoint * _FILES:
        raise DiskFullError(
            f"not enough disk space for checkpoints in {directory}: about {_megabytes(checkpoint * _FILES)} are needed "
            f"({_FILES} files of {_megabytes(checkpoint)}), {_megabytes(free)} are free. Free some space, or set "
            "hydra.run.dir=DIR on another disk."
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
