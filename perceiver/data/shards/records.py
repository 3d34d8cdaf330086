"""Records of samples in shards: the content of cells and files as bytes.

Files are stored unchanged, so that a sample from a shard equals that from the manifest bit by bit, and sizes, rates and
statistics of the spec can still change. A record is the length of its head (4 bytes, little-endian), the head in JSON, and
the concatenated contents of files. The head has `id`, `target` (a class name, a text, a list of labels or values, or null)
and `cells`: for each modality that is present, `value`, or `files` with names and sizes, or the size of an `array`, of sound
with its `sampling_rate` too, or of `bytes`.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.data.manifest.cells import files_of_cell, is_list_of_files, read_cell
from perceiver.data.manifest.content import FileContent
from perceiver.data.manifest.modalities import ManifestModality
from perceiver.data.manifest.paths import EnclosedFolder, Folder, placed
from perceiver.data.manifest.rows import BadRowError, ManifestRows, cell_of, reason
from perceiver.data.manifest.text_targets import TextTargets
from perceiver.data.readers.bounded.array_files import read_array
from perceiver.data.readers.bounded.json_files import parse_json
from perceiver.data.shards.errors import ShardError
from perceiver.modalities.kinds import kind_of
from perceiver.modalities.modality import Modality
from perceiver.samples.batch import Sample
from perceiver.targets.text import TextTarget

_LENGTH = struct.Struct("<I")


def encode(samples: ManifestRows, index: int, *, target: Mapping[str, Any]) -> bytes:
    """Encode a sample as a record.

    Args:
        samples: rows of a manifest.
        index: position of the sample.
        target: `spec["target"]`.

    Raises:
        BadRowError: the sample cannot be read or decoded; every sample is decoded once before it is stored.
    """
    sample = samples[index]
    row = int(samples.rows[index])
    cells: dict[str, Any] = {}
    blobs: list[bytes] = []
    for modality in samples.modalities:
        if modality.name not in sample.inputs:
            continue
        value = cell_of(samples.table, row, modality)
        try:
            cells[modality.name] = _cell(value, modality, samples, blobs)
        except OSError as error:
            raise BadRowError(f"{samples.table.where(row, modality.columns[0])}: {error}") from error
    text = target["kind"] == "text" and isinstance(samples.targets, TextTargets)
    named = samples.targets.text(index) if text else _named(sample.target, target)  # type: ignore[union-attr]
    head = {"id": sample.id, "target": named, "cells": cells}
    text = json.dumps(head, separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *blobs])


def _cell(value: Any, modality: ManifestModality, samples: ManifestRows, blobs: list[bytes]) -> dict[str, Any]:
    """Return the entry of a cell in the head, and append its bytes to `blobs`."""
    spec = samples.specs[modality.name]
    files = files_of_cell(value, spec=spec, folder=samples.folder)
    if files is not None:
        contents = [file.read_bytes() for file in files]
        blobs += contents
        names = [_name(file, samples.folder) for file in files]
        sizes = [[name, len(content)] for name, content in zip(names, contents, strict=True)]
        return {"files": sizes, "list": is_list_of_files(value) or _is_folder(value, samples.folder)}
    if isinstance(value, bytes):
        blobs.append(value)
        return {"bytes": len(value)}
    if isinstance(value, tuple):
        array, rate = value
        entry = _cell(np.asarray(array), modality, samples, blobs)
        return {**entry, "sampling_rate": rate}
    if isinstance(value, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        blobs.append(buffer.getvalue())
        return {"array": len(buffer.getvalue())}
    return {"value": json.loads(json.dumps(value, default=_plain))}


def _name(file: Path | FileContent, folder: Folder) -> str:
    folder = folder.path if isinstance(folder, EnclosedFolder) else folder
    return str(file.relative_to(folder) if isinstance(file, Path) and file.is_relative_to(folder) else file)


def _is_folder(value: Any, folder: Folder) -> bool:
    return isinstance(value, str | Path) and placed(folder, str(value).strip()).is_dir()


def _plain(value: Any) -> Any:
    """Convert values of Parquet files that JSON does not support: NumPy numbers, dates."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _named(value: Any, target: Mapping[str, Any]) -> Any:
    if value is None:
        return None
    if target["kind"] == "classes":
        return target["names"][int(value)]
    if target["kind"] == "labels":
        return [name for name, present in zip(target["names"], value.tolist(), strict=True) if present]
    return torch.as_tensor(value).tolist()


class Decode:
    """Decodes a record to a sample, preprocessed as in `Perceiver.predict`.

    Args:
        modalities: modalities of the samples; other modalities in a record are ignored.
        specs: specs of these modalities, by name.
        target: `spec["target"]`, which numbers classes and labels; None: samples have no target.
        training: make the random choices of training.
    """

    def __init__(
        self,
        *,
        modalities: Sequence[str],
        specs: Mapping[str, Mapping[str, Any]],
        target: Mapping[str, Any] | None,
        training: bool = False,
    ) -> None:
        self.modalities = list(modalities)
        self.specs = {name: dict(specs[name]) for name in modalities}
        self.kind = None if target is None else str(target["kind"])
        names = list((target or {}).get("names") or [])
        self.texts = TextTarget.of(target) if target is not None and self.kind == "text" else None
        self.numbers = {name: number for number, name in enumerate(names)}
        self.training = training

    @cached_property
    def kinds(self) -> dict[str, Modality]:
        """Kinds of the modalities, found at the first sample: a run imports trusted packages after it has read the spec."""
        return {name: kind_of(spec) for name, spec in self.specs.items()}

    def __getstate__(self) -> dict[str, Any]:
        # With the kinds, so that spawned loader processes import those of other packages when they unpickle this object.
        return {**self.__dict__, "kinds": self.kinds}

    def __call__(self, record: bytes | memoryview) -> Sample:
        """Decode a sample. A view of a mapped file is copied.

        Raises:
            ShardError: the record is damaged.
            BadRowError: the record lacks all modalities, has a class unseen in training, or does not match the spec; the
                message names the sample.
        """
        try:
            head, contents = _opened(record)
        except (ValueError, TypeError) as error:
            raise ShardError(
                f"data.shards: a shard has the right size but is damaged: {error}. Copy the folder again."
            ) from error
        where = f"sample {head['id']!r} of the shards"
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        for name, value in contents.items():
            if name not in self.specs:
                continue
            spec = self.specs[name]
            try:
                if isinstance(value, io.BytesIO) and not isinstance(value, FileContent):
                    value = read_array(value)
                elif isinstance(value, tuple):
                    value = read_array(value[0]), value[1]
                # Errors show the original file name. A name in a record is never used as a path on this machine.
                raw = read_cell(value, spec=spec, folder=None, training=self.training)
                inputs[name] = self.kinds[name].preprocess(raw, spec, str(spec["kind"]))
            except ImportError:
                raise
            except Exception as error:
                raise BadRowError(f"{where}, {name}: {reason(error)}") from error
        if not inputs:
            raise BadRowError(f"{where}: expected one or more of the modalities {', '.join(self.modalities)}.")
        try:
            target = self._target(head["target"], where)
            whole = None if self.texts is None or target is None else torch.ones(len(target), dtype=torch.bool)
            return Sample(inputs=inputs, target=target, id=head["id"], target_mask=whole)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, BadRowError):
                raise
            raise BadRowError(f"{where}: expected a target of kind {self.kind}, got {error}") from error

    def _target(self, stored: Any, where: str) -> Tensor | None:
        if self.kind is None or stored is None:
            return None
        if self.texts is not None:
            if not isinstance(stored, str):
                raise TypeError(f"{stored!r:.80}")
            return self.texts.ids(stored, where=where)
        if self.kind == "values":
            return torch.tensor(stored, dtype=torch.float64)
        names = [stored] if self.kind == "classes" else stored
        if unknown := [name for name in names if name not in self.numbers]:
            raise BadRowError(f"{where}: {unknown[0]!r} is not one of the {len(self.numbers)} {self.kind} seen in training.")
        if self.kind == "classes":
            return torch.tensor(self.numbers[stored])
        marked = torch.zeros(len(self.numbers), dtype=torch.bool)
        marked[[self.numbers[name] for name in names]] = True
        return marked


def _opened(record: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the head of a record, and the values of its cells; arrays are not parsed yet.

    Raises:
        ValueError: the record does not have the form that `encode` writes, or its sizes do not match its content.
    """
    if not isinstance(record, bytes | bytearray | memoryview):
        raise ValueError(f"expected the bytes of a record, got {type(record).__name__}")
    record = bytes(record)
    if len(record) < _LENGTH.size:
        raise ValueError(f"a record has only {len(record)} bytes")
    end = _LENGTH.size + _LENGTH.unpack_from(record)[0]
    if end > len(record):
        raise ValueError(f"the head of a record would end at byte {end}, but it has {len(record)}")
    head = parse_json(record[_LENGTH.size : end])
    if not isinstance(head, dict) or head.keys() != {"id", "target", "cells"}:
        raise ValueError("the head of a record lacks id, target or cells")
    if not isinstance(head["id"], str) or not isinstance(head["cells"], dict):
        raise ValueError("the head of a record needs an id that is a string, and cells by name")
    contents: dict[str, Any] = {}
    for name, entry in head["cells"].items():
        try:
            contents[name], end = _value(entry, record, end)
        except ValueError as error:
            raise ValueError(f"{name} of sample {head['id']!r}: {error}") from None
    if end != len(record):
        raise ValueError(f"sample {head['id']!r}: its cells have {end} bytes, but its record has {len(record)}")
    return head, contents


def _value(entry: Any, record: bytes, start: int) -> tuple[Any, int]:
    """Return the value of a cell, and the offset of the next cell in the record."""
    kind = tuple(sorted(entry)) if isinstance(entry, dict) else ()
    if kind == ("value",):
        return entry["value"], start
    if kind == ("files", "list"):
        files = []
        for pair in entry["files"] if isinstance(entry["files"], list) else ():
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise ValueError(f"expected the name and the size of a file, got {pair!r:.80}")
            content, start = _part(record, start, pair[1])
            files.append(FileContent(content, name=pair[0]))
        if not files or not isinstance(entry["list"], bool) or (len(files) > 1 and not entry["list"]):
            raise ValueError("expected one file, or a list of them")
        return (files if entry["list"] else files[0]), start
    if kind == ("bytes",):
        return _part(record, start, entry["bytes"])
    if kind == ("array",):
        content, start = _part(record, start, entry["array"])
        return io.BytesIO(content), start
    if kind == ("array", "sampling_rate") and type(entry["sampling_rate"]) is int and entry["sampling_rate"] > 0:
        content, start = _part(record, start, entry["array"])
        return (io.BytesIO(content), entry["sampling_rate"]), start
    raise ValueError(f"expected a value, files, bytes or an array, got {entry!r:.80}")


def _part(record: bytes, start: int, size: Any) -> tuple[bytes, int]:
    if type(size) is not int or not 0 <= size <= len(record) - start:
        raise ValueError(f"expected a size of at most the {len(record) - start} bytes that are left, got {size!r:.80}")
    return record[start : start + size], start + size
