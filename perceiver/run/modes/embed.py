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
from perceiver.run.modes.inference import Inference, find_checkpoint
from perceiver.runtime.files import atomic_write, staged


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

    Raises:
        ValueError: `embed` or `embed_format` has another value.
    """

    ckpt_path: str | None
    embed: str = "mean"
    embed_format: str = "parquet"

    def __post_init__(self) -> None:
        if self.embed not in ("mean", "latents"):
            raise ValueError(f"embed: expected mean or latents, got {self.embed!r}.")
        if self.embed_format not in _TABLES:
            raise ValueError(f"embed_format: expected {' or '.join(_TABLES)}, got {self.embed_format!r}.")

    def run(self, config: DictConfig) -> None:
        """Embed every sample of the data; ValueError if the data does not fit the checkpoint."""
        inference = Inference.of(config, file=find_checkpoint(self.ckpt_path, mode="embed"))
        model, directory = inference.model, Path(config.run_dir)

        def compute(batch: Batch) -> Tensor:
            latents = model.encode(batch.inputs, batch.masks)
            return latents.mean(dim=1) if self.embed == "mean" else latents

        with staged(directory) as folder, ExitStack() as stack:
            table = _TABLES[self.embed_format](folder, stack)
            inference.run(compute, table.write)
            table.finish()
        sys.stdout.write(f"{table.rows:,} embeddings ({self.embed}) of {inference.file}: {directory / table.path.name}\n")


class ParquetTable:
    """`embeddings.parquet`, with a row group per batch.

    Args:
        directory: target directory.
        stack: closes the file.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.path = directory / "embeddings.parquet"
        self.rows = 0
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._writer: pq.ParquetWriter | None = None

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append the embeddings of B samples."""
        flat = embeddings.flatten(1)
        width = flat.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1).numpy()), width)
        if self._writer is None:
            shape = "x".join(str(size) for size in embeddings.shape[1:])
            schema = pa.schema(
                [("id", pa.string()), ("embedding", pa.list_(pa.float32(), width))], metadata={"embedding_shape": shape}
            )
            self._writer = pq.ParquetWriter(self._file, schema, use_dictionary=False)
        self._writer.write_table(pa.table([pa.array(list(ids), pa.string()), column], schema=self._writer.schema))
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
