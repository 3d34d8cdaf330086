"""mode=embed: the latents of every sample, or their mean, as a table that grows batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from torch import Tensor

from perceiver.batch import Batch
from perceiver.run.modes.inference import Compute, Inference, find_checkpoint
from perceiver.runtime.files import atomic_write, staged
from perceiver.runtime.process_rank import process_rank

PARQUET = "embeddings.parquet"


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Writes `embeddings.parquet`, or `embeddings.npy` and `embeddings_ids.txt`, into the run directory.

    A Parquet table has the columns `id` and `embedding`. Several latents are flattened, and their shape is in the
    metadata. An array in `embeddings.npy` is `(samples, D)` or `(samples, N, D)`, float32. The ids are in the same order,
    one per line.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        embed: "mean" for the mean of a sample's latents, `(D,)`, or "latents" for all latents, `(N, D)`.
        embed_format: parquet or npy.
        rows_per_part: rows of a part; None: a single table, or parts of 10,000 rows with several processes. Parts are in the
            folder `embeddings.parquet`. Started again, the run computes what is missing.

    Raises:
        ValueError: `embed` or `embed_format` has another value.
    """

    ckpt_path: str | None
    embed: str = "mean"
    embed_format: str = "parquet"
    rows_per_part: int | None = None

    def __post_init__(self) -> None:
        if self.embed not in ("mean", "latents"):
            raise ValueError(f"embed: expected mean or latents, got {self.embed!r}.")
        if self.embed_format not in _TABLES:
            raise ValueError(f"embed_format: expected {' or '.join(_TABLES)}, got {self.embed_format!r}.")

    def run(self, config: DictConfig) -> None:
        """Embed every sample of the data; ValueError if the data does not fit the checkpoint."""
        inference = Inference.of(
            config, file=find_checkpoint(self.ckpt_path, mode="embed"), rows_per_part=self.rows_per_part
        )
        model, directory = inference.model, Path(config.run_dir)

        def compute(batch: Batch) -> Tensor:
            latents = model.encode(batch.inputs, batch.masks)
            return latents.mean(dim=1) if self.embed == "mean" else latents

        if inference.in_parts:
            return self._write_parts(inference, compute, directory)
        if (directory / PARQUET).is_dir():
            raise FileExistsError(
                f"hydra.run.dir: {directory / PARQUET} is a table in parts; choose another directory, or remove it."
            )
        with staged(directory) as folder, ExitStack() as stack:
            table = _TABLES[self.embed_format](folder, stack)
            inference.run(compute, table.write)
            table.finish()
        sys.stdout.write(f"{table.rows:,} embeddings ({self.embed}) of {inference.file}: {directory / table.path.name}\n")
        return None

    def _write_parts(self, inference: Inference, compute: Compute, directory: Path) -> None:
        if self.embed_format != "parquet":
            raise ValueError(f"embed_format: expected parquet, the format of parts, got {self.embed_format!r}.")
        path = directory / PARQUET
        done = inference.run_in_parts(
            compute,
            lambda ids, embeddings, first: embedding_rows(ids, embeddings),
            path=path,
            settings={"mode": "embed", "embed": self.embed},
            directory=directory,
        )
        if process_rank() == 0:
            sys.stdout.write(f"{done.rows:,} embeddings ({self.embed}) of {inference.file}: {path} ({done.count:,} parts)\n")


def embedding_rows(ids: Sequence[str], embeddings: Tensor) -> pa.Table:
    """Return the rows of B samples: `id`, and `embedding`, whose shape is in the metadata of the table."""
    flat = embeddings.flatten(1)
    width = flat.shape[1]
    shape = "x".join(str(size) for size in embeddings.shape[1:])
    schema = pa.schema(
        [("id", pa.string()), ("embedding", pa.list_(pa.float32(), width))], metadata={"embedding_shape": shape}
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1).numpy()), width)
    return pa.table([pa.array(list(ids), pa.string()), column], schema=schema)


class ParquetTable:
    """`embeddings.parquet`, with a row group per batch.

    Args:
        directory: target directory.
        stack: closes the file.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.path = directory / PARQUET
        self.rows = 0
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._writer: pq.ParquetWriter | None = None

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append the embeddings of B samples."""
        rows = embedding_rows(ids, embeddings)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, rows.schema, use_dictionary=False)
        self._writer.write_table(rows)
        self.rows += len(ids)

    def finish(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


class NpyTable:
    """`embeddings.npy`, whose header is rewritten once the number of samples is known, and `embeddings_ids.txt`.

    Args:
        directory: target directory.
        stack: closes the files.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.path = directory / "embeddings.npy"
        self.rows = 0
        self._shape: tuple[int, ...] = ()
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._ids: BinaryIO = stack.enter_context(atomic_write(directory / "embeddings_ids.txt"))

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append the embeddings of B samples."""
        if self.rows == 0:
            self._shape = tuple(embeddings.shape[1:])
            self._header()
        self._file.write(np.ascontiguousarray(embeddings.numpy(), dtype="<f4").tobytes())
        # One id per line, even if an id contains line breaks.
        self._ids.write("".join(f"{' '.join(id_.splitlines())}\n" for id_ in ids).encode())
        self.rows += len(ids)

    def finish(self) -> None:
        """Write the number of samples into the header, which has room for it."""
        end = self._file.tell()
        self._file.seek(0)
        self._header()
        self._file.seek(end)

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


_TABLES: dict[str, type[ParquetTable] | type[NpyTable]] = {"parquet": ParquetTable, "npy": NpyTable}
