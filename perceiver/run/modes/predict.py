"""mode=predict: the predictions of a checkpoint for every sample, as a table of ids, predictions and probabilities.

Predictions on a grid go into one file per sample, see `perceiver.run.modes.predicted_files`; the table holds its path.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from omegaconf import DictConfig
from torch import Tensor

from perceiver.batch import Batch
from perceiver.run.modes.inference import Inference, Outputs, find_checkpoint
from perceiver.run.modes.predicted_files import PredictedFiles
from perceiver.runtime.files import atomic_write, staged
from perceiver.targets.kinds import SavedPrediction, Target, target_of
from perceiver.targets.pixels import cut_to_size

PREDICTIONS = "predictions.csv"


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Writes `predictions.csv` into the run directory: a row per sample, in the order of the data.

    The columns are `id`, `prediction` and, for every class, `probability_<class>`. For labels, `prediction` lists those
    that reach their threshold, separated by semicolons. For values, the columns are `prediction_<value>`, in original
    units. For dense predictions, `prediction` is a file in `predictions/`, and further columns summarise it.

    Args:
        ckpt_path: the checkpoint, or its run directory.
    """

    ckpt_path: str | None

    def run(self, config: DictConfig) -> None:
        """Predict for every sample; ValueError if the checkpoint has no target or the data does not fit it."""
        inference = Inference.of(config, file=find_checkpoint(self.ckpt_path, mode="predict"))
        target = target_of(inference.spec)
        if target is None:
            raise ValueError(f"ckpt_path: {inference.file} holds no class names, labels or values, so it predicts nothing.")
        directory = Path(config.run_dir)
        with staged(directory) as folder, atomic_write(folder / PREDICTIONS) as file:
            table = PredictionTable(file, target, files=PredictedFiles(folder))

            def compute(batch: Batch) -> Outputs:
                table.masks = batch.masks
                outputs: Outputs = inference.model.target_outputs(batch.inputs, batch.masks)
                return outputs

            inference.run(compute, table.write)
        sys.stdout.write(f"{table.rows:,} predictions of {inference.file}: {directory / PREDICTIONS}\n")


class PredictionTable:
    """A CSV table of predictions that grows row by row.

    Args:
        file: file open for writing.
        target: interprets the outputs.
        files: writes predictions that are saved as files; None: predictions are never saved as files.

    Attributes:
        masks: masks of the batch whose outputs come next; predictions on a grid are cut to the size of their sample.
    """

    def __init__(self, file: BinaryIO, target: Target, *, files: PredictedFiles | None = None) -> None:
        self.file = file
        self.target = target
        self.files = files
        self.masks: Mapping[str, Tensor] = {}
        self.rows = 0

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Append the predictions of B samples."""
        # Encoded here, since a text wrapper would also close the underlying file.
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        predictions = cut_to_size(self.target.predict(outputs), target=self.target, masks=self.masks)
        for id_, one in zip(ids, predictions, strict=True):
            cells = one.cells()
            if isinstance(one, SavedPrediction):
                assert self.files is not None
                cells = {"prediction": self.files.write(one, number=self.rows, id_=id_), **cells}
            if self.rows == 0:
                writer.writerow(["id", *cells])
            writer.writerow([id_, *cells.values()])
            self.rows += 1
        self.file.write(text.getvalue().encode())
