"""Atomic writing of Lightning's checkpoints, and a check for enough disk space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from perceiver.runtime.files import DiskFullError, atomic_write, free_bytes

# Copies: weights and the two moments of Adam and LAMB. Files: best, last, previous, and the file being written.
_COPIES_OF_WEIGHTS, _FILES = 3, 4


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO in which a local checkpoint replaces the file of the same name only once it is complete on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            DiskFullError: the disk is full; an earlier file at `path` is intact.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values from `path`; never runs code named by the file, even if a caller allows it."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded


def require_disk_space(directory: Path, model: nn.Module) -> None:
    """Check before training that the checkpoints of `model` will fit into `directory`.

    Raises:
        DiskFullError: there is less free space than for about four checkpoints.
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
