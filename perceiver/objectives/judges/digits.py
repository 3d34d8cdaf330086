"""The judge that fits the settings of `perceiver.data.DigitPrompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.synthetic.prompts.scenes import SMALLEST_CANVAS
from perceiver.data.synthetic.prompts.source import DIGIT_SIDE
from perceiver.objectives.judges.canvases import CanvasJudge
from perceiver.objectives.judges.classes import ClassJudge


def digit_judge(
    *, root: str, folder: str | None, num_digits: int = 1, canvas: int | None = None, download: bool = True, **settings: Any
) -> ClassJudge | CanvasJudge:
    """Return the judge of MNIST's own images, or of canvases.

    Args:
        root: folder with `MNIST/raw/`.
        folder: folder of the files of judges; None: train the judge in each run.
        num_digits, canvas, download: see `perceiver.data.DigitPrompts`.
        settings: further settings of `ClassJudge` or `CanvasJudge`.
    """
    source = MNIST(root=root, download=download)
    if num_digits == 1 and canvas in (None, DIGIT_SIDE):
        file = None if folder is None else Path(folder) / "mnist.pt"
        return ClassJudge(source=source, name="mnist", file=file, **settings)
    side = SMALLEST_CANVAS if canvas is None else canvas
    file = None if folder is None else Path(folder) / f"mnist_canvas_{side}.pt"
    return CanvasJudge(source=source, canvas=side, num_digits=num_digits, file=file, **settings)
