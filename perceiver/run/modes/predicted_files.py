"""What mode=predict says of every pixel, as a file for each sample: class numbers as PNG, values as .npy."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from perceiver.runtime.files import atomic_write
from perceiver.targets.pixels import FieldPrediction, SegmentationPrediction

FOLDER = "predictions"


class PredictedFiles:
    """Writes predictions on a grid into `predictions/` of a directory.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, one: SegmentationPrediction | FieldPrediction, *, number: int, id_: str) -> dict[str, str]:
        """Write a prediction; the cells of its row in the table, by column.

        Of classes `<number>_<id>.png`, whose pixels are class numbers, shown in colours (from 256 classes on 16 bits, in
        grey), and `share_<class>`, the share of the pixels. Of values `<number>_<id>.npy`, `(E, H, W)` float32 in their own
        units, and `mean_<value>`.

        Args:
            one: the prediction.
            number: of the row, from 0; ids may be alike but for letters that no file name may have.
            id_: of the sample.
        """
        stem = f"{number:06d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', id_)[-80:]}"
        if isinstance(one, SegmentationPrediction):
            place = f"{FOLDER}/{stem}.png"
            with atomic_write(self.directory / place) as file:
                class_image(one).save(file, format="PNG")
            return {"prediction": place} | {f"share_{name}": f"{share:.6g}" for name, share in one.shares.items()}
        place = f"{FOLDER}/{stem}.npy"
        with atomic_write(self.directory / place) as file:
            np.save(file, one.values)
        means = one.values.reshape(len(one.names), -1).mean(axis=1, dtype=np.float64).tolist()
        return {"prediction": place} | {f"mean_{name}": f"{mean:.6g}" for name, mean in zip(one.names, means, strict=True)}


def class_image(one: SegmentationPrediction) -> Image.Image:
    """Class numbers as pixels; with a palette where they fit into 8 bits."""
    if len(one.names) > 256:
        return Image.fromarray(one.classes.astype(np.uint16))
    image = Image.fromarray(one.classes.astype(np.uint8))
    image.putpalette([round(255 * part) for number in range(256) for part in matplotlib.colormaps["tab20"](number % 20)[:3]])
    return image
