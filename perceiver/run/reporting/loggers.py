"""What every logger of a run gets besides metrics: hyperparameters, figures and texts, and an orderly end."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from perceiver.run.configuration.construct import construct

_NOT_HYPERPARAMETERS = ("spec", "run_dir", "mode", "logger", "callbacks", "hydra")


def make_loggers(nodes: Mapping[str, Any] | None) -> list[Logger]:
    """Build the configured loggers; ModuleNotFoundError, naming the extra, if a library is not installed."""
    loggers = []
    for name, node in (nodes or {}).items():
        if not node:
            continue
        try:
            loggers.append(construct(node))
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"logger={name}: its library is not installed; it comes with the extra 'loggers': "
                f"pip install 'perceiver-multimodal[loggers]' (in a clone: pip install -e '.[loggers]'). {error}"
            ) from error
    return loggers


def log_hyperparameters(trainer: Trainer, config: Mapping[str, Any]) -> None:
    """Give the resolved configuration to every logger, without paths, callbacks and facts of the data."""
    shown = {key: value for key, value in config.items() if key not in _NOT_HYPERPARAMETERS}
    for logger in trainer.loggers:
        logger.log_hyperparams(shown)


def log_figure(trainer: Trainer, figure: bytes | str, tag: str, step: int) -> None:
    """Give a figure, or a plain text, to every logger that takes one.

    Args:
        trainer: the trainer with the loggers.
        figure: a figure, as the content of a PNG file, or a text.
        tag: its name, `val/samples`.
        step: number on the axis of steps.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            if isinstance(figure, str):
                logger.experiment.add_text(tag, f"```\n{figure}\n```", global_step=step)
            else:
                logger.experiment.add_image(tag, _pixels(figure), global_step=step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            if isinstance(figure, str):
                logger.log_text(tag, columns=["text"], data=[[figure]])
            else:
                logger.log_image(tag, images=[_pixels(figure)])
        elif isinstance(logger, MLFlowLogger):
            name = f"figures/{tag.replace('/', '_')}_{step}"
            if isinstance(figure, str):
                logger.experiment.log_text(logger.run_id, figure, f"{name}.txt")
            else:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / f"{Path(name).name}.png"
                    file.write_bytes(figure)
                    logger.experiment.log_artifact(logger.run_id, str(file), "figures")


def finish_loggers(trainer: Trainer) -> None:
    """End the runs of loggers that hold one open, so that the next job of a sweep begins its own."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _pixels(png: bytes) -> Any:
    """Decode a PNG file to an array `(rows, columns, 3)`."""
    return np.asarray(Image.open(io.BytesIO(png)))
