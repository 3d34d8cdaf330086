"""The judge that fits the settings of `perceiver.data.DigitPrompts`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.synthetic.prompts.scenes import SMALLEST_CANVAS
from perceiver.data.synthetic.prompts.source import DIGIT_SIDE
from perceiver.objectives.judges.canvases import CanvasJudge
from perceiver.objectives.judges.classes import ClassJudge
from perceiver.objectives.metrics.frechet import FrechetDistance


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


def digit_distance(samples: Float[Tensor, "samples 1 height width"], real: Float[Tensor, "real 1 height width"]) -> float:
    """Return the Fréchet distance (FD) of generated to real images of digits, in the features of the judge of their size.

    The judge is trained on first use on the digits in the folder `$PERCEIVER_DATA`, or `data`, and kept in the folder
    `$PERCEIVER_JUDGES`, or `runs/judges`.

    Args:
        samples: generated images in [0, 1], of MNIST's size or canvases of `perceiver.data.DigitPrompts`.
        real: real images.
    """
    judge = digit_judge(
        root=os.environ.get("PERCEIVER_DATA", "data"),
        folder=os.environ.get("PERCEIVER_JUDGES", "runs/judges"),
        canvas=samples.shape[-1],
        download=False,
    )
    metric = FrechetDistance(channels=judge.channels)
    for images, is_real in ((samples, False), (real, True)):
        for part in images.split(256):
            metric.update(judge.network(part)[0], real=is_real)
    return float(metric.compute())
