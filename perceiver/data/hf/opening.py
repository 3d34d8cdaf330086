"""From a name or a folder to the rows of each split, with the types of their columns."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perceiver.data.hf.backend import datasets
from perceiver.data.hf.features import languages_of
from perceiver.data.hf.folders import ARROW, PARQUET, LocalFiles, local_files
from perceiver.data.manifest.formats.arrow_columns import table_file
from perceiver.data.manifest.formats.class_labels import class_labels
from perceiver.data.manifest.formats.parquet_rows import read_parquet_rows
from perceiver.data.manifest.formats.table_file import TableFile, named_columns

log = logging.getLogger(__name__)

BUILDERS = ("arrow", "audiofolder", "cache", "csv", "imagefolder", "json", "parquet", "text", "videofolder")
"""Readers of `datasets` that neither run code nor unpickle."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A data set.

    Args:
        features: feature of each column, as `datasets` describes it.
        splits: rows of each split, in memory or mapped into it; an `IterableDataset` of the library in a stream.
        lengths: number of rows of each split; None if a stream does not know it.
        folder: folder of the files; None for a name on the Hub.
    """

    features: Mapping[str, Any]
    splits: Mapping[str, Any]
    lengths: Mapping[str, int | None]
    folder: Path | None


def open_data_set(
    path: str | os.PathLike[str],
    *,
    name: str | None,
    revision: str | None,
    streaming: bool,
    cache: Path | None,
    max_row_group_bytes: int,
) -> Opened:
    """Open a data set.

    Args:
        path: folder, file, or name on the Hub.
        name: configuration.
        revision: commit, branch or tag on the Hub.
        streaming: read rows one after the other, without storing them.
        cache: folder for what the library downloads and prepares. None: that of the library.
        max_row_group_bytes: memory limit of a row group in Parquet.

    Raises:
        FileNotFoundError: there is no such folder, and no such name, or the Hub cannot be reached.
        ValueError: the data set is a loading script, is damaged, or has another format.
    """
    place = Path(path)
    if place.exists():
        files = local_files(place, name=name)
        if streaming:
            return _local_stream(files, max_row_group_bytes=max_row_group_bytes)
        if files.form == PARQUET:
            return _local(files, lambda file: read_parquet_rows(file, max_bytes=max_row_group_bytes), pq.read_schema)
        if files.form == ARROW:
            return _local(files, _mapped, _arrow_schema)
        builder = _builder(files, cache)
        return _prepared(builder, folder=files.folder)
    if not _NAME.fullmatch(os.fspath(path)):
        raise FileNotFoundError(
            "data.path: expected a folder, or a name on the Hugging Face Hub such as ylecun/mnist; "
            f"{place.absolute()} does not exist."
        )
    builder = _builder_of_hub(os.fspath(path), name=name, revision=revision, cache=cache)
    if not streaming:
        with _hub(os.fspath(path)):
            builder.download_and_prepare()
        return _prepared(builder, folder=None)
    with _hub(os.fspath(path)):
        return _streamed(builder.as_streaming_dataset(), builder.info.splits, folder=None)


def _local(files: LocalFiles, read: Callable[[Path], TableFile], schema_of: Callable[[Path], pa.Schema]) -> Opened:
    splits = {split: [read(file) for file in own] for split, own in files.splits.items()}
    first = next(iter(files.splits.values()))[0]
    lengths = {split: sum(map(len, own)) for split, own in splits.items()}
    return Opened(features=_features(schema_of(first), first), splits=splits, lengths=lengths, folder=files.folder)


def _features(schema: pa.Schema, file: Path) -> Mapping[str, Any]:
    """Return the features that the metadata of a file describes, or its types."""
    library = datasets()
    try:
        features: Mapping[str, Any] = library.Features.from_arrow_schema(schema)
    except Exception as error:  # the metadata is a stranger's
        log.warning("%s: the description of its columns is damaged, so their types are used: %s.", file, type(error))
        features = library.Features.from_arrow_schema(schema.remove_metadata())
    return features


def _arrow_schema(file: Path) -> pa.Schema:
    with pa.memory_map(str(file)) as source:
        return _reader(source).schema


def _reader(source: Any) -> Any:
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source)


def _mapped(file: Path) -> TableFile:
    """Map an Arrow file into memory, after checking that its content lies in it."""
    size = file.stat().st_size
    try:
        # Not closed: the columns are views of the mapped file.
        reader = _reader(pa.memory_map(str(file)))
        batches: list[pa.RecordBatch] = []
        taken = 0
        for batch in _batches(reader):
            taken += batch.nbytes
            if taken > size:
                raise ValueError("its buffers are compressed, unlike those that datasets writes; write it as Parquet")
            for column in batch.columns:
                # Offsets of a stranger's could lead out of the buffer. Text that is not UTF-8 is a problem of its row only.
                text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
                binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
                (column.view(binary) if text else column).validate(full=True)
            batches.append(batch)
        table = pa.Table.from_batches(batches, schema=reader.schema)
        chosen, repeated = named_columns(file, [str(name) for name in table.column_names])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: not a readable Arrow file: {error}.") from error
    labels = class_labels(table.schema.metadata)
    return table_file(file, table, chosen=chosen, repeated=repeated, labels=labels, problems={}, mapped=True)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "get_batch"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _builder(files: LocalFiles, cache: Path | None) -> Any:
    """Return the library's reader of local files."""
    given = {split: [str(file) for file in own] for split, own in files.splits.items()}
    with _damaged(files.folder):
        return datasets().load_dataset_builder(files.form, data_files=given, cache_dir=None if cache is None else str(cache))


def _builder_of_hub(path: str, *, name: str | None, revision: str | None, cache: Path | None) -> Any:
    """Return the library's reader of a data set on the Hub; one that could run code is refused."""
    library = datasets()
    if "/" not in path and hasattr(library.packaged_modules, path):
        raise FileNotFoundError(f"data.path: expected a folder or a name on the Hub, got {path!r}, a format.")
    with _hub(path):
        folder = None if cache is None else str(cache)
        builder = library.load_dataset_builder(path, name, revision=revision, cache_dir=folder)
    module = type(builder).__module__.split(".")
    if module[:2] != ["datasets", "packaged_modules"] or module[2] not in BUILDERS:
        raise ValueError(
            f"data.path: {path} has the format {module[-1]!r}, whose reader is not trusted here; expected one of "
            f"{', '.join(BUILDERS)}."
        )
    return builder


@contextmanager
def _hub(path: str) -> Iterator[None]:
    """Turn the library's errors into one that tells what to download, and where to put it."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # of the library, and of those that it uses for the network
        text = " ".join(str(error).split())
        if "scripts are no longer supported" in text:
            raise ValueError(
                f"data.path: {path} is a loading script on the Hub, which is not run: data is never code. Use its version "
                "in Parquet, if it has one: data.revision=refs/convert/parquet."
            ) from error
        if "gated" in text or "authenticated" in text:
            raise FileNotFoundError(
                f"data.path: {path} is gated: accept its terms at https://huggingface.co/datasets/{path}, and log in with "
                "hf auth login."
            ) from error
        if isinstance(error, ValueError | TypeError) and not isinstance(error, OSError):
            setting = "data.name" if "config" in text.lower() else "data.path"
            raise ValueError(f"{setting}: {path} cannot be read: {text[:400]}") from error
        raise FileNotFoundError(
            f"data.path: there is no folder {path!r} here, and no such data set could be read from the Hugging Face Hub: "
            f"{text[:200]}. Without network, download it elsewhere with 'hf download {path} --repo-type dataset --local-dir "
            "DIR', copy DIR here, and set data.path=DIR."
        ) from error


@contextmanager
def _damaged(place: object) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # whatever the library raises for a stranger's files
        cause = error.__cause__ or error
        raise ValueError(f"{place}: cannot be read: {' '.join(str(cause).split())[:400]}") from error


def _prepared(builder: Any, *, folder: Path | None) -> Opened:
    """Return the rows that the library has prepared in its cache, mapped into memory."""
    with _damaged(builder.config.name if folder is None else folder):
        builder.download_and_prepare()
        found = builder.as_dataset()
    features = next(iter(found.values())).features
    label = Path(builder.dataset_name if folder is None else folder)
    splits = {str(name): [_of_library(one, label)] for name, one in found.items()}
    lengths = {name: len(one[0]) for name, one in splits.items()}
    return Opened(features=features, splits=splits, lengths=lengths, folder=folder)


def _of_library(data_set: Any, label: Path) -> TableFile:
    table = data_set.data.table
    chosen, repeated = named_columns(label, [str(name) for name in table.column_names])
    labels = class_labels(data_set.features.arrow_schema.metadata)
    return table_file(label, table, chosen=chosen, repeated=repeated, labels=labels, problems={}, mapped=True)


def _local_stream(files: LocalFiles, *, max_row_group_bytes: int) -> Opened:
    if files.form == ARROW:
        raise ValueError(
            f"data.streaming: expected false for {files.folder}: Arrow files are mapped into memory, and may be larger."
        )
    known: dict[str, int] | None = None
    if files.form == PARQUET:
        known = {split: sum(_rows(file, max_row_group_bytes) for file in own) for split, own in files.splits.items()}
    builder = _builder(files, None)
    with _damaged(files.folder):
        return _streamed(builder.as_streaming_dataset(), builder.info.splits, folder=files.folder, lengths=known)


def _rows(file: Path, max_bytes: int) -> int:
    """Return the number of rows of a Parquet file whose row groups fit into memory, as far as it says."""
    try:
        with pq.ParquetFile(file) as content:
            metadata = content.metadata
            groups = [int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: not a readable Parquet file: {error}.") from error
    if max(groups, default=0) > max_bytes:
        raise ValueError(
            f"{file}: has a row group of {max(groups):,} bytes, expected at most {max_bytes:,}; write smaller row groups, "
            "or raise data.max_row_group_bytes."
        )
    return int(metadata.num_rows)


def _streamed(
    found: Any, infos: Mapping[str, Any] | None, *, folder: Path | None, lengths: Mapping[str, int] | None = None
) -> Opened:
    """Return streams whose images and sound are not decoded, and whose columns have types."""
    library = datasets()
    splits: dict[str, Any] = {}
    for name, stream in found.items():
        if stream.features is None:
            some = list(stream.take(64))
            if not some:
                raise ValueError(f"data.path: the split {name} has no rows.")
            stream = stream.cast(library.Dataset.from_list(some).features)
        splits[str(name)] = stream.decode(False)
    known = {str(name): int(info.num_examples) for name, info in (infos or {}).items() if info.num_examples}
    return Opened(
        features=next(iter(splits.values())).features,
        splits=splits,
        lengths={name: (lengths or known).get(name) for name in splits},
        folder=folder,
    )


def part_of(files: Sequence[TableFile], start: int, end: int) -> list[TableFile]:
    """Return rows of consecutive files."""
    found, first = [], 0
    for file in files:
        low, high = max(start - first, 0), min(end - first, len(file))
        first += len(file)
        if low < high:
            problems = {row - low: problem for row, problem in file.problems.items() if low <= row < high}
            columns = {name: column.slice(low, high - low) for name, column in file.columns.items()}
            whole = high - low == len(file)
            path = file.path if whole else Path(f"{file.path} (rows {low + 1} to {high})")
            found.append(replace(file, path=path, columns=columns, problems=problems))
    return found


def with_languages(file: TableFile, features: Mapping[str, Any]) -> TableFile:
    """Return the columns with a column of text for each language of a translation, see `features.flattened`."""
    columns: dict[str, Any] = {}
    for name, column in file.columns.items():
        if pa.types.is_struct(column.type) and (languages := languages_of(features.get(name))):
            columns |= {f"{name}.{language}": pc.struct_field(column, language) for language in languages}
        else:
            columns[name] = column
    return replace(file, columns=columns)
