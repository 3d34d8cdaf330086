"""The files of a manifest: one, or several parts with the same columns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from perceiver.data.loading.splits import SPLIT_NAMES, split_words
from perceiver.data.manifest.formats.table_file import TableFile
from perceiver.data.readers.folder_files import by_number

DELIMITED, JSON, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")
GZIP = ".gz"

Place = str | os.PathLike[str]

_IN_FOLDERS = ((".parquet", ".pq"), (".csv", ".tsv"), (".jsonl", ".ndjson"), (".json",), (".txt",))
"""Formats of the parts in a folder; the first that occurs is taken. Notes (.txt) and settings (.json) often lie beside."""


def format_of(path: Path) -> str:
    """Return the suffix that gives the format, in lower case and without `.gz`; Parquet files are not compressed again."""
    suffix = path.suffix.lower()
    if suffix != GZIP:
        return suffix
    inner = path.with_suffix("").suffix.lower()
    return inner if inner in (*DELIMITED, *JSON) else suffix


def folder_of(manifest: Place | Sequence[Place]) -> Path:
    """Return the folder of a manifest: that of its file, or the common folder of its parts."""
    places = [Path(place) for place in listed(manifest)]
    folders = [place if place.is_dir() else _without_pattern(place).parent for place in places]
    return folders[0] if len(set(folders)) == 1 else Path(os.path.commonpath([folder.absolute() for folder in folders]))


def listed(manifest: Place | Sequence[Place]) -> list[Place]:
    """Return the paths and patterns of a manifest as a list.

    Raises:
        ValueError: the list is empty.
    """
    places: list[Place] = [manifest] if isinstance(manifest, str | os.PathLike) else list(manifest)
    if not places:
        raise ValueError("data.manifest: expected a file, a pattern such as 'train-*.parquet' or a list of these, got none.")
    return places


def files_of(manifest: Place | Sequence[Place]) -> list[Path]:
    """Return the files of a manifest. Those of a pattern or folder are in natural order: part2 before part10.

    Raises:
        FileNotFoundError: a file does not exist, or a pattern or folder has no files.
        ValueError: a file occurs twice.
    """
    files = [file for place in listed(manifest) for file in _files_at(Path(place))]
    if repeated := sorted({str(file) for file in files if files.count(file) > 1}) if len(files) > 1 else []:
        raise ValueError(f"data.manifest: {repeated[0]} is named more than once.")
    return files


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        names = [entry.name for entry in os.scandir(path) if entry.is_file() and entry.name[0] not in "._"]
        for suffixes in _IN_FOLDERS:
            if found := [name for name in names if format_of(Path(name)) in suffixes]:
                return [path / name for name in sorted(found, key=by_number)]
        raise FileNotFoundError(f"data.manifest: expected CSV, Parquet or JSON files, but {path.resolve()} has none.")
    if glob.has_magic(str(path)):
        if matching := [name for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]:
            return [Path(name) for name in sorted(matching, key=by_number)]
        raise FileNotFoundError(f"data.manifest: no file matches {path.absolute()}.")
    raise FileNotFoundError(f"data.manifest: expected a CSV, Parquet or JSON file, but {path.resolve()} does not exist.")


def _without_pattern(path: Path) -> Path:
    if path.exists() or not glob.has_magic(str(path)):
        return path
    first = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[: first + 1])


def joined_columns(parts: Sequence[TableFile]) -> dict[str, pa.ChunkedArray]:
    """Return the columns of all parts, one part after the other.

    Parts in JSON may lack columns, as rows may.

    Raises:
        ValueError: parts differ in their columns or the types of them; the message names two files.
    """
    first = parts[0]
    names = list(first.columns)
    for part in parts[1:]:
        missing, more = [n for n in names if n not in part.columns], [n for n in part.columns if n not in names]
        if first.json_text != part.json_text:
            raise ValueError(f"data.manifest: expected parts of one format, got {first.path} and {part.path}.")
        if (missing or more) and first.json_text:
            names += more
        elif missing or more:
            differences = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"also has {', '.join(more)}"] * bool(more)
            raise ValueError(
                f"data.manifest: expected parts with the same columns, but {part.path} {' and '.join(differences)}, unlike "
                f"{first.path}. Give the parts that belong together."
            )
    return {name: _joined(name, parts) for name in names}


def _joined(name: str, parts: Sequence[TableFile]) -> pa.ChunkedArray:
    arrays = [part.columns[name] if name in part.columns else pa.nulls(len(part)) for part in parts]
    try:
        schemas = [pa.schema([pa.field(name, array.type)]) for array in arrays]
        kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        cast = [array.cast(kind) for array in arrays]
        chunks = [chunk for array in cast for chunk in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])]
        return pa.chunked_array(chunks, type=kind)
    except pa.ArrowException:
        other = next(number for number, array in enumerate(arrays) if array.type != arrays[0].type)
        raise ValueError(
            f"data.manifest: expected parts with the same type of column {name!r}, got {arrays[0].type} in {parts[0].path} "
            f"and {arrays[other].type} in {parts[other].path}."
        ) from None


def splits_of_names(files: Sequence[Path]) -> list[str] | None:
    """Return the split that is the first among the words of each file's name, as in `train-00000-of-00002.parquet`.

    None unless all names do, and there are several splits.
    """
    known = [SPLIT_NAMES[words[0]] for file in files if (words := split_words(file.name))]
    return known if len(known) == len(files) and len(set(known)) > 1 else None
