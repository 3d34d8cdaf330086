"""mode=embed: the latents of every sample, their mean, or unit vectors, as a table that grows batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from torch import Tensor

from perceiver.decoders.embedding import EmbeddingHead
from perceiver.inference.alone import alone
from perceiver.model import Perceiver
from perceiver.run.modes.inference import Compute, Inference, find_checkpoint
from perceiver.runtime.files import atomic_write, staged
from perceiver.runtime.process_rank import process_rank
from perceiver.samples.batch import Batch

NAME = "embeddings"
PARQUET = f"{NAME}.parquet"


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Writes `embeddings.parquet`, or `embeddings.npy` and `embeddings_ids.txt`, into the run directory.

    A Parquet table has the columns `id` and `embedding`. Several latents are flattened, and their shape is in the
    metadata. An array in `embeddings.npy` is `(samples, D)` or `(samples, N, D)`, float32. The ids are in the same order,
    one per line. With `embed_modalities`, there is a file for each modality, such as `embeddings_image.parquet`, with the
    samples that have it.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        embed: "mean" for the mean of a sample's latents, `(D,)`, "latents" for all latents, `(N, D)`, or "unit" for unit
            vectors `(E,)` of a model with an `EmbeddingHead`, which `perceiver.Index.load` reads.
        embed_modalities: modalities to embed, each by itself; None: all modalities of a sample together.
        embed_format: parquet or npy.
        rows_per_part: rows of a part; None: a single table, or parts of 10,000 rows with several processes. Parts are in the
            folder `embeddings.parquet`. Started again, the run computes what is missing.

    Raises:
        ValueError: `embed` or `embed_format` has another value, or `embed_modalities` is empty.
    """

    ckpt_path: str | None
    embed: str = "mean"
    embed_modalities: list[str] | None = None
    embed_format: str = "parquet"
    rows_per_part: int | None = None

    def __post_init__(self) -> None:
        if self.embed not in ("mean", "latents", "unit"):
            raise ValueError(f"embed: expected mean, latents or unit, got {self.embed!r}.")
        if self.embed_format not in _TABLES:
            raise ValueError(f"embed_format: expected {' or '.join(_TABLES)}, got {self.embed_format!r}.")
        chosen = self.embed_modalities
        if chosen is not None and (not chosen or len(set(chosen)) < len(chosen) or self.rows_per_part is not None):
            raise ValueError(
                "embed_modalities: expected one or more modalities, each once, and rows_per_part=null, or null for all "
                f"together; got {chosen} and rows_per_part={self.rows_per_part}."
            )

    def run(self, config: DictConfig) -> None:
        """Embed every sample of the data; ValueError if the data does not fit the checkpoint."""
        inference = Inference.of(
            config, file=find_checkpoint(self.ckpt_path, mode="embed"), rows_per_part=self.rows_per_part
        )
        model, directory = inference.model, Path(config.run_dir)

        self._check(model)
        if self.embed_modalities is not None:
            return self._write_modalities(inference, directory)

        def compute(batch: Batch) -> Tensor:
            return self._embedded(model, batch.inputs, batch.masks)

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

    def _check(self, model: Perceiver) -> None:
        """Raise ValueError if the model has no unit vectors, or lacks a modality."""
        if self.embed == "unit" and not isinstance(model.head, EmbeddingHead):
            raise ValueError(
                f"embed=unit: expected a model whose head is an EmbeddingHead, as task=contrastive trains it, got "
                f"{type(model.head).__name__}; use embed=mean."
            )
        if unknown := sorted(set(self.embed_modalities or ()) - set(model.adapters)):
            raise ValueError(f"embed_modalities: expected modalities among {sorted(model.adapters)}, got {unknown}.")

    def _embedded(self, model: Perceiver, inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Tensor:
        if self.embed == "unit":
            found: Tensor = model(inputs, masks)
            return found
        latents = model.encode(inputs, masks)
        return latents.mean(dim=1) if self.embed == "mean" else latents

    def _write_modalities(self, inference: Inference, directory: Path) -> None:
        """Write a table for each modality, in one pass over the data for each."""
        if inference.in_parts:
            raise ValueError("embed_modalities: expected a single process, or null for all modalities together.")
        for modality in self.embed_modalities or ():
            has: list[bool] = []

            def compute(batch: Batch, modality: str = modality, has: list[bool] = has) -> Tensor:
                if modality not in batch.inputs:
                    has[:] = [False] * batch.size
                    return torch.zeros(batch.size, 1)
                inputs, masks, present = alone(batch, modality)
                has[:] = present.tolist()
                if not any(has):
                    return torch.zeros(batch.size, 1)
                found = self._embedded(inference.model, inputs, masks)
                whole = found.new_zeros(batch.size, *found.shape[1:])
                whole[present] = found
                return whole

            with staged(directory) as folder, ExitStack() as stack:
                table = _TABLES[self.embed_format](folder, stack, name=f"embeddings_{modality}")

                def write(
                    ids: list[str], found: Tensor, has: list[bool] = has, table: ParquetTable | NpyTable = table
                ) -> None:
                    if any(has):
                        kept = [id_ for id_, one in zip(ids, has, strict=True) if one]
                        table.write(kept, found[torch.tensor(has)])

                inference.run(compute, write)
                table.finish()
            sys.stdout.write(
                f"{table.rows:,} embeddings ({self.embed}, {modality}) of {inference.file}: {directory / table.path.name}\n"
            )

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
        name: name of the file without its suffix.
    """

    def __init__(self, directory: Path, stack: ExitStack, *, name: str = NAME) -> None:
        self.path = directory / f"{name}.parquet"
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
        """Write the footer; without samples, the file is an empty table."""
        if self._writer is None:
            schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32()))])
            self._writer = pq.ParquetWriter(self._file, schema)
        self._writer.close()


class NpyTable:
    """`embeddings.npy`, whose header is rewritten once the number of samples is known, and `embeddings_ids.txt`.

    Args:
        directory: target directory.
        stack: closes the files.
        name: name of the file without its suffix.
    """

    def __init__(self, directory: Path, stack: ExitStack, *, name: str = NAME) -> None:
        self.path = directory / f"{name}.npy"
        self.rows = 0
        self._shape: tuple[int, ...] = ()
        self._file: BinaryIO = stack.enter_context(atomic_write(self.path))
        self._ids: BinaryIO = stack.enter_context(atomic_write(directory / f"{name}_ids.txt"))

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
