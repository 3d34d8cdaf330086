"""mode=predict: the predictions of a checkpoint for every sample, as a table of ids, predictions and probabilities.

Predictions on a grid go into one file per sample, see `perceiver.run.modes.predicted_files`; the table holds its path.
Alignments of texts go into `alignments.jsonl`, a line per sample. Large tables are written in parts, see
`perceiver.run.parts`.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.decoders import CausalDecoder
from perceiver.run.cross_validation.averaging import averaged
from perceiver.run.cross_validation.directory import CrossValidationDirectory
from perceiver.run.modes.inference import Inference, Outputs, find_checkpoint, set_decoding
from perceiver.run.modes.predicted_files import PredictedFiles
from perceiver.runtime.files import atomic_write, staged
from perceiver.runtime.process_rank import process_rank
from perceiver.samples.batch import Batch
from perceiver.targets.kinds import SavedPrediction, Target, target_of
from perceiver.targets.pixels import cut_to_size
from perceiver.targets.predictions import TextPrediction
from perceiver.targets.text import with_alignments

PREDICTIONS = "predictions.csv"
ALIGNMENTS = "alignments.jsonl"
PARTS = "predictions.parquet"
_TEXTS = ("id", "prediction")
"""Columns of texts; all others hold numbers."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Writes `predictions.csv` into the run directory: a row per sample, in the order of the data.

    The columns are `id`, `prediction` and, for every class, `probability_<class>`. For labels, `prediction` lists those
    that reach their threshold, separated by semicolons. For values, the columns are `prediction_<value>`, in original
    units. For dense predictions, `prediction` is a file in `predictions/`, and further columns summarise it. For texts, the
    columns are `prediction` and `score`.

    With `rows_per_part` or several processes, the folder `predictions.parquet` has the same columns in parts, with numbers
    as float64. Started again, the run computes what is missing.

    Args:
        ckpt_path: the checkpoint, or its run directory; of a cross-validation, all folds, whose predictions are averaged.
        generation: how texts are generated, as arguments of `Decoding`; None: as the checkpoint is configured.
        alignments: for texts: also write `alignments.jsonl`, see `perceiver.targets.alignment.Alignment.plain`.
        rows_per_part: rows of a part; None: a single table, or parts of 10,000 rows with several processes.
    """

    ckpt_path: str | None
    generation: Mapping[str, Any] | None = None
    alignments: bool = False
    rows_per_part: int | None = None

    def run(self, config: DictConfig) -> None:
        """Predict for every sample; ValueError if the checkpoint has no target or the data does not fit it."""
        CrossValidationDirectory.require_none(config.run_dir)
        folds = CrossValidationDirectory.find(self.ckpt_path)
        if folds is not None:
            return self._average(folds, config)
        inference = Inference.of(
            config, file=find_checkpoint(self.ckpt_path, mode="predict"), rows_per_part=self.rows_per_part
        )
        target = target_of(inference.spec)
        if target is None:
            raise ValueError(f"ckpt_path: {inference.file} holds no class names, labels or values, so it predicts nothing.")
        set_decoding(inference.model, self.generation)
        if self.alignments and not isinstance(inference.model.head, CausalDecoder):
            raise ValueError(
                f"alignments: expected false, since the model in {inference.file} generates no text: its head is "
                f"{type(inference.model.head).__name__}, not a perceiver.decoders.CausalDecoder."
            )
        directory = Path(config.run_dir)
        if inference.in_parts:
            return self._write_parts(inference, target, directory)
        if (directory / PARTS).is_dir():
            raise FileExistsError(f"hydra.run.dir: {directory / PARTS} is a table in parts; choose another directory.")
        with staged(directory) as folder, ExitStack() as files:
            aligned = files.enter_context(atomic_write(folder / ALIGNMENTS)) if self.alignments else None
            table = PredictionTable(
                files.enter_context(atomic_write(folder / PREDICTIONS)),
                target,
                files=PredictedFiles(folder),
                alignments=aligned,
                modalities=inference.spec["modalities"],
            )

            def compute(batch: Batch) -> Outputs:
                table.batch = batch
                outputs: Outputs = inference.model.target_outputs(batch.inputs, batch.masks, alignments=self.alignments)
                return outputs

            inference.run(compute, table.write)
        sys.stdout.write(f"{table.rows:,} predictions of {inference.file}: {directory / PREDICTIONS}\n")
        return None

    def _average(self, folds: CrossValidationDirectory, config: DictConfig) -> None:
        """Write the average of the predictions of all folds: probabilities of classes and labels, and values."""
        if self.rows_per_part is not None or self.generation is not None or self.alignments:
            raise ValueError(
                f"rows_per_part, generation, alignments: expected null, null and false, since {folds.path} is a "
                "cross-validation, whose predictions are averaged. Use a single fold: ckpt_path=RUN_DIR/fold_0."
            )
        recipes = [checkpoints.read(file) for file in folds.checkpoints()]
        ids, outputs = averaged(recipes, config, split="predict")
        target = target_of(recipes[0].spec)
        assert target is not None, "averaged"
        directory = Path(config.run_dir)
        with atomic_write(directory / PREDICTIONS) as file:
            PredictionTable(file, target).write(ids, outputs)
        sys.stdout.write(f"{len(ids):,} predictions, averaged over {len(recipes)} folds: {directory / PREDICTIONS}\n")

    def _write_parts(self, inference: Inference, target: Target, directory: Path) -> None:
        if self.alignments:
            raise ValueError("alignments: expected false with parts (rows_per_part, or several processes), got true.")
        if (directory / PREDICTIONS).exists() and process_rank() == 0:
            raise FileExistsError(f"hydra.run.dir: {directory / PREDICTIONS} already exists; choose another directory.")
        rows = PredictionRows(target, files=PredictedFiles(directory))

        def compute(batch: Batch) -> Outputs:
            rows.batch = batch
            outputs: Outputs = inference.model.target_outputs(batch.inputs, batch.masks)
            return outputs

        path = directory / PARTS
        done = inference.run_in_parts(
            compute,
            lambda ids, outputs, first: _table(rows.of(ids, rows.predictions(outputs), first=first)),
            path=path,
            settings={"mode": "predict", "generation": dict(self.generation) if self.generation else None},
            directory=directory,
        )
        if process_rank() == 0:
            sys.stdout.write(f"{done.rows:,} predictions of {inference.file}: {path} ({done.count:,} parts)\n")


def _table(rows: Sequence[Mapping[str, str]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return pa.table(
        {
            name: pa.array(values, pa.string()) if name in _TEXTS else pa.array([float(one) for one in values], pa.float64())
            for name, values in columns.items()
        }
    )


class PredictionRows:
    """Predictions as rows of a table: texts by column.

    Args:
        target: interprets the outputs.
        files: writes predictions that are saved as files; None: predictions are never saved as files.

    Attributes:
        batch: the batch whose outputs come next; predictions on a grid are cut to the size of their sample.
    """

    def __init__(self, target: Target, *, files: PredictedFiles | None = None) -> None:
        self.target = target
        self.files = files
        self.batch = Batch(inputs={})

    def predictions(self, outputs: Outputs) -> Sequence[Any]:
        """Return the predictions for outputs of B samples."""
        return cut_to_size(self.target.predict(outputs), target=self.target, masks=self.batch.masks)

    def of(self, ids: Sequence[str], predictions: Sequence[Any], *, first: int) -> list[dict[str, str]]:
        """Return the rows of B samples, the first of which has the row number `first`."""
        rows = []
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
        alignments: file for the alignments of texts, open for writing; None: not written.
        modalities: spec of each modality, for alignments.
    """

    def __init__(
        self,
        file: BinaryIO,
        target: Target,
        *,
        files: PredictedFiles | None = None,
        alignments: BinaryIO | None = None,
        modalities: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(target, files=files)
        self.file = file
        self.alignments = alignments
        self.modalities = modalities or {}
        self.rows = 0

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Append the predictions of B samples."""
        # Encoded here, since a text wrapper would also close the underlying file.
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        predictions = self.predictions(outputs)
        if self.alignments is not None:
            predictions = with_alignments(
                predictions, outputs, target=self.target, batch=self.batch, modalities=self.modalities
            )
            for id_, one in zip(ids, predictions, strict=True):
                self.alignments.write(_alignment_line(id_, one))
        for row in self.of(ids, predictions, first=self.rows):
            if self.rows == 0:
                writer.writerow(row)
            writer.writerow(row.values())
            self.rows += 1
        self.file.write(text.getvalue().encode())


def _alignment_line(id_: str, one: Any) -> bytes:
    """Return the JSON line of a text and its alignment."""
    assert isinstance(one, TextPrediction)
    assert one.alignment is not None
    content = {"id": id_, "text": one.text, **one.alignment.plain()}
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
