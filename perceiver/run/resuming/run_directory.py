"""What lies in a run directory besides checkpoints and figures, and whose run it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from perceiver.run.configuration.yaml_file import to_yaml
from perceiver.run.resuming.last_checkpoint import LAST, PREVIOUS
from perceiver.run.resuming.metrics_table import EarlierTable
from perceiver.run.resuming.resume import Resumed
from perceiver.runtime.files import atomic_write

CONFIG, METRICS = "config.yaml", "metrics.json"


def check_unused(directory: Path, resumed: Resumed | None) -> None:
    """Refuse to train over the checkpoints of another run: what is written stays."""
    folder = directory / "checkpoints"
    there = next((name for name in (LAST, PREVIOUS, "best.ckpt") if (folder / name).exists()), None)
    if there is not None and (resumed is None or resumed.file.parent.resolve() != folder.resolve()):
        raise FileExistsError(
            f"hydra.run.dir: {directory} already holds a run ({there}). Choose another directory, or continue that run "
            f"with ckpt_path={directory}."
        )


def continue_table(directory: Path, trainer: Trainer, resumed: Resumed | None) -> None:
    """Keep the metrics table of a run that is continued here, which CSVLogger would delete."""
    path = directory / "csv" / "metrics.csv"
    here = resumed is not None and resumed.file.parent.parent.resolve() == directory.resolve()
    if resumed is not None and here:
        EarlierTable(path, steps=resumed.step, last_row=resumed.last_row).continue_in(trainer)
    else:
        EarlierTable(path, steps=None)


def write_config(directory: Path, plain: Mapping[str, Any]) -> None:
    """The resolved configuration."""
    with atomic_write(directory / CONFIG) as file:
        file.write(to_yaml(plain).encode())
