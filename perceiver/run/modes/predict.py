"""mode=predict: the predictions of a checkpoint for every sample, as a table of ids, predictions and probabilities.

Predictions on a grid go into one file per sample, see `perceiver.run.modes.predicted_files`; the table holds its path.
Alignments of texts go into `alignments.jsonl`, a line per sample.
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

from omegaconf import DictConfig

from perceiver.batch import Batch
from perceiver.decoders import CausalDecoder
from perceiver.run.modes.inference import Inference, Outputs, find_checkpoint, set_decoding
from perceiver.run.modes.predicted_files import PredictedFiles
from perceiver.runtime.files import atomic_write, staged
from perceiver.targets.kinds import SavedPrediction, Target, target_of
from perceiver.targets.pixels import cut_to_size
from perceiver.targets.predictions import TextPrediction
from perceiver.targets.text import with_alignments

PREDICTIONS = "predictions.csv"
ALIGNMENTS = "alignments.jsonl"


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Writes `predictions.csv` into the run directory: a row per sample, in the order of the data.

    The columns are `id`, `prediction` and, for every class, `probability_<class>`. For labels, `prediction` lists those
    that reach their threshold, separated by semicolons. For values, the columns are `prediction_<value>`, in original
    units. For dense predictions, `prediction` is a file in `predictions/`, and further columns summarise it. For texts, the
    columns are `prediction` and `score`.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        generation: how texts are generated, as arguments of `Decoding`; None: as the checkpoint is configured.
        alignments: for texts: also write `alignments.jsonl`, see `perceiver.targets.alignment.Alignment.plain`.
    """

    ckpt_path: str | None
    generation: Mapping[str, Any] | None = None
    alignments: bool = False

    def run(self, config: DictConfig) -> None:
        """Predict for every sample; ValueError if the checkpoint has no target or the data does not fit it."""
        inference = Inference.of(config, file=find_checkpoint(self.ckpt_path, mode="predict"))
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


class PredictionTable:
    """A CSV table of predictions that grows row by row.

    Args:
        file: file open for writing.
        target: interprets the outputs.
        files: writes predictions that are saved as files; None: predictions are never saved as files.
        alignments: file for the alignments of texts, open for writing; None: not written.
        modalities: spec of each modality, for alignments.

    Attributes:
        batch: the batch whose outputs come next; predictions on a grid are cut to the size of their sample.
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
        self.file = file
        self.target = target
        self.files = files
        self.alignments = alignments
        self.modalities = modalities or {}
        self.batch = Batch(inputs={})
        self.rows = 0

    def write(self, ids: Sequence[str], outputs: Outputs) -> None:
        """Append the predictions of B samples."""
        # Encoded here, since a text wrapper would also close the underlying file.
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        predictions = cut_to_size(self.target.predict(outputs), target=self.target, masks=self.batch.masks)
        if self.alignments is not None:
            predictions = with_alignments(
                predictions, outputs, target=self.target, batch=self.batch, modalities=self.modalities
            )
            for id_, one in zip(ids, predictions, strict=True):
                self.alignments.write(_alignment_line(id_, one))
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


def _alignment_line(id_: str, one: Any) -> bytes:
    """Return the JSON line of a text and its alignment."""
    assert isinstance(one, TextPrediction)
    assert one.alignment is not None
    content = {"id": id_, "text": one.text, **one.alignment.plain()}
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")
