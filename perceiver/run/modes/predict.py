"""mode=predict: the predictions of a checkpoint for every sample, as a table of ids, predictions and probabilities.

Predictions on a grid go into one file per sample, see `perceiver.run.modes.predicted_files`; the table holds its path. Large
tables are written in parts, see `perceiver.run.parts`.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from omegaconf import DictConfig
from torch import Tensor

from perceiver.batch import Batch
from perceiver.run.modes.inference import Inference, Outputs, find_checkpoint
from perceiver.run.modes.predicted_files import PredictedFiles
from perceiver.runtime.files import atomic_write, staged
from perceiver.runtime.process_rank import process_rank
from perceiver.targets.kinds import SavedPrediction, Target, target_of
from perceiver.targets.pixels import cut_to_size

PREDICTIONS = "predictions.csv"
PARTS = "predictions.parquet"
_TEXTS = ("id", "prediction")
"""Columns of texts; all others hold numbers."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Writes `predictions.csv` into the run directory: a row per sample, in the order of the data.

    The columns are `id`, `prediction` and, for every class, `probability_<class>`. For labels, `prediction` lists those
    that reach their threshold, separated by semicolons. For values, the columns are `prediction_<value>`, in original
    units. For dense predictions, `prediction` is a file in `predictions/`, and further columns summarise it.

    With `rows_per_part` or several processes, the folder `predictions.parquet` has the same columns in parts, numbers as
    float64 except those of dense predictions' files. Started again, the run computes what is missing.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        rows_per_part: rows of a part; None: a single table, or parts of 10,000 rows with several processes.
    """

    ckpt_path: str | None
    rows_per_part: int | None = None

    def run(self, config: DictConfig) -> None:
        """Predict for every sample; ValueError if the checkpoint has no target or the data does not fit it."""
        inference = Inference.of(
            config, file=find_checkpoint(self.ckpt_path, mode="predict"), rows_per_part=self.rows_per_part
        )
        target = target_of(inference.spec)
        if target is None:
            raise ValueError(f"ckpt_path: {inference.file} holds no class names, labels or values, so it predicts nothing.")
        directory = Path(config.run_dir)
        if inference.in_parts:
            return _write_parts(inference, target, directory)
        with staged(directory) as folder, atomic_write(folder / PREDICTIONS) as file:
            table = PredictionTable(file, target, files=PredictedFiles(folder))

            def compute(batch: Batch) -> Outputs:
                table.masks = batch.masks
                outputs: Outputs = inference.model.target_outputs(batch.inputs, batch.masks)
                return outputs

            inference.run(compute, table.write)
        sys.stdout.write(f"{table.rows:,} predictions of {inference.file}: {directory / PREDICTIONS}\n")
        return None


def _write_parts(inference: Inference, target: Target, directory: Path) -> None:
    require_no_other(directory / PREDICTIONS)
    rows = PredictionRows(target, files=PredictedFiles(directory))

    def compute(batch: Batch) -> Outputs:
        rows.masks = batch.masks
        outputs: Outputs = inference.model.target_outputs(batch.inputs, batch.masks)
        return outputs

    def table(ids: list[str], outputs: Any, first: int) -> pa.Table:
        cells = rows.of(ids, outputs, first=first)
        columns = {name: [row[name] for row in cells] for name in cells[0]}
        return pa.table(
            {
                name: pa.array(values, pa.string())
                if name in _TEXTS
                else pa.array([float(one) for one in values], pa.float64())
                for name, values in columns.items()
            }
        )

    path = directory / PARTS
    done = inference.run_in_parts(compute, table, path=path, settings={"mode": "predict"}, directory=directory)
    if process_rank() == 0:
        sys.stdout.write(f"{done.rows:,} predictions of {inference.file}: {path} ({done.count:,} parts)\n")


def require_no_other(path: Path) -> None:
    """Raise FileExistsError if a run directory has a table of another form, which would be mistaken for this run's."""
    if path.exists() and process_rank() == 0:
        raise FileExistsError(f"hydra.run.dir: {path} already exists; choose another directory, or remove it.")


class PredictionRows:
    """Predictions as rows of a table: texts by column.

    Args:
        target: interprets the outputs.
        files: writes predictions that are saved as files; None: predictions are never saved as files.

    Attributes:
        masks: masks of the batch whose outputs come next; predictions on a grid are cut to the size of their sample.
    """

    def __init__(self, target: Target, *, files: PredictedFiles | None = None) -> None:
        self.target = target
        self.files = files
        self.masks: Mapping[str, Tensor] = {}

    def of(self, ids: Sequence[str], outputs: Outputs, *, first: int) -> list[dict[str, str]]:
        """Return the rows of B samples, the first of which has the row number `first`."""
        rows = []
        predictions = cut_to_size(self.target.predict(outputs), target=self.target, masks=self.masks)
        for number, (id_, one) in enumerate(zip(ids, predictions, strict=True), start=first):
            cells = one.cells()
            if isinstance(one, SavedPrediction):
                assert self.files is not None
                cells = {"prediction": self.files.write(one, number=number, id_=id_), **cells}
            rows.append({"id": id_, **cells})
        return rows


class PredictionTable(PredictionRows):
    """A CSV table of predictions that grows row by row.

    Args:
        file: file open for writing.
        target: see `PredictionRows`.
        files: see `PredictionRows`.
    """

    def __init__(self, file: BinaryIO, target: Target, *, files: PredictedFiles | None = None) -> None:
        super().__init__(target, files=files)
        self.file = file
        self.rows = 0

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Append the predictions of B samples."""
        # Encoded here, since a text wrapper would also close the underlying file.
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        for row in self.of(ids, outputs, first=self.rows):
            if self.rows == 0:
                writer.writerow(row)
            writer.writerow(row.values())
            self.rows += 1
        self.file.write(text.getvalue().encode())
