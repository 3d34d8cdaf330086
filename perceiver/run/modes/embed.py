"""mode=embed: the latents of every sample, or their mean, as a table that grows batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from torch import Tensor

from perceiver.batch import Batch
from perceiver.run.modes.inference import Inference
from perceiver.runtime.files import atomic_write


def embed(config: DictConfig) -> None:
    """Write `embeddings.parquet`, or `embeddings.npy` and `embeddings_ids.txt`, into the run directory.

    `embed=mean` gives the mean of a sample's latents, (D,), `embed=latents` all of them, (N, D), float32. A Parquet table
    has the columns `id` and `embedding`, flat where there are several latents; their shape is in its metadata. An array in
    `embeddings.npy` is `(samples, D)` or `(samples, N, D)`; the ids are in the same order, one a line.

    Raises:
        ValueError: an unknown form or format, or data that does not fit the checkpoint.
    """
    form, kind = str(config.embed), str(config.embed_format)
    if form not in ("mean", "latents"):
        raise ValueError(f"embed: expected mean or latents, got {form!r}.")
    if kind not in _TABLES:
        raise ValueError(f"embed_format: expected {' or '.join(_TABLES)}, got {kind!r}.")
    inference = Inference.of(config)
    model, directory = inference.model, Path(config.run_dir)

    def compute(batch: Batch) -> Tensor:
        latents = model.encode(batch.inputs, batch.masks)
        return latents.mean(dim=1) if form == "mean" else latents

    with ExitStack() as stack:
        table = _TABLES[kind](directory, stack)
        inference.run(compute, table.write)
        table.finish()
    sys.stdout.write(f"{table.rows:,} embeddings ({form}) of {inference.file}: {table.path}\n")


class EmbeddingTable(Protocol):
    """A file of embeddings that grows."""

    path: Path
    rows: int

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append those of B samples, `(B, D)` or `(B, N, D)`."""
        ...

    def finish(self) -> None:
        """Nothing more will come."""
        ...


class ParquetTable:
    """`embeddings.parquet`; a row group per batch.

    Args:
        directory: that it goes to.
        stack: which closes the file.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.path = directory / "embeddings.parquet"
        self.rows = 0
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._writer: pq.ParquetWriter | None = None

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append those of B samples."""
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
    """`embeddings.npy`, whose header is written again once the number of samples is known, and `embeddings_ids.txt`.

    Args:
        directory: that they go to.
        stack: which closes the files.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.path = directory / "embeddings.npy"
        self.rows = 0
        self._shape: tuple[int, ...] = ()
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._ids: BinaryIO = stack.enter_context(atomic_write(directory / "embeddings_ids.txt"))

    def write(self, ids: Sequence[str], embeddings: Tensor) -> None:
        """Append those of B samples."""
        if self.rows == 0:
            self._shape = tuple(embeddings.shape[1:])
            self._header()
        self._file.write(np.ascontiguousarray(embeddings.numpy(), dtype="<f4").tobytes())
        # One a line, whatever is in them.
        self._ids.write("".join(f"{' '.join(id_.splitlines())}\n" for id_ in ids).encode())
        self.rows += len(ids)

    def finish(self) -> None:
        """Write the number of samples into the header, which has room for it."""
        end = self._file.tell()
        self._file.seek(0)
        self._header()
        self._file.seek(end)

    def _header(self) -> None:
        facts = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, facts)


_TABLES: dict[str, type[ParquetTable] | type[NpyTable]] = {"parquet": ParquetTable, "npy": NpyTable}
