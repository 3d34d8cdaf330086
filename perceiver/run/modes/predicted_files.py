"""Files for the predictions of mode=predict that are too large for the table, such as a PNG of class numbers per pixel."""

from __future__ import annotations

import re
from pathlib import Path

from perceiver.runtime.files import atomic_write
from perceiver.targets.kinds import SavedPrediction

FOLDER = "predictions"


class PredictedFiles:
    """Writes predictions into `predictions/` of a directory.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, one: SavedPrediction, *, number: int, id_: str) -> str:
        """Write `<number>_<id>` with the suffix of the prediction; return its path relative to the directory.

        Args:
            one: the prediction.
            number: row number, from 0; ids may differ only in characters that are not allowed in file names.
            id_: id of the sample.
        """
        place = f"{FOLDER}/{number:06d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', id_)[-80:]}{one.suffix}"
        with atomic_write(self.directory / place) as file:
            one.save(file)
        return place
