"""The parts of an ONNX file that are checked before a runtime opens it: versions, metadata, and what it refers to.

The file is read as protocol buffers, field by field, without a library: onnxruntime shows the metadata of a file only after
it has loaded the file, other files that it names included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the metadata."""

KEY = "perceiver"
"""Name of the metadata in the file."""

MAX_BYTES = 2**31 - 1
"""Maximum size of a file: the limit of protocol buffers."""

MAX_ELEMENTS = 2**28
"""Maximum number of elements of a sample in the example that a model is exported with."""

_DOMAINS = {"", "ai.onnx"}
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_MAX_DEPTH = 64

_GRAPH, _OPSETS, _METADATA, _FUNCTIONS = 7, 8, 14, 25
_NODES, _INITIALIZERS, _SPARSE = 1, 5, 15
_OPERATOR, _ATTRIBUTES, _NODE_DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL_DATA, _LOCATION = 13, 14


class ExportedFileError(ValueError):
    """A file is not a usable exported model; the message names the file, what was expected and what was found."""


@dataclass(frozen=True)
class OnnxFile:
    """A checked file.

    Args:
        path: the file.
        content: its bytes.
        opset: version of the operators.
        metadata: metadata of this package.
    """

    path: Path
    content: bytes = field(repr=False)
    opset: int
    metadata: dict[str, Any]


def step_path(path: Path) -> Path:
    """Return the file with the step of a model that generates texts: beside `model.onnx`, `model.step.onnx`."""
    return path.with_name(f"{path.stem}.step{path.suffix}")


def read_onnx(path: str | Path) -> OnnxFile:
    """Read and check a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ExportedFileError: if it is not an ONNX file of `perceiver.export`, is of another version, or refers to other files
            or to operators outside the standard.
    """
    file = Path(path)
    if file.is_dir():
        file = _in_run(file)
    if file.suffix == ".pt2":
        raise ExportedFileError(
            f"{file}: expected an ONNX file; this is a torch.export program, for torch.export.load. Export it again with "
            "export.format=onnx."
        )
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no such file; expected an exported model such as RUN/export/model.onnx.")
    if not file.is_file():
        raise ExportedFileError(f"{file}: it is not a regular file.")
    if file.stat().st_size > MAX_BYTES:
        raise ExportedFileError(f"{file}: expected at most {MAX_BYTES:,} bytes, got {file.stat().st_size:,}.")
    content = file.read_bytes()
    opset, metadata = None, None
    try:
        for number, value in _fields(memoryview(content)):
            if number == _OPSETS and isinstance(value, memoryview):
                own = dict(_fields(value))
                if _text(own.get(1, memoryview(b""))) in _DOMAINS:
                    opset = int(own[2])
            elif number == _METADATA and isinstance(value, memoryview):
                pair = dict(_fields(value))
                if _text(pair.get(1, memoryview(b""))) == KEY:
                    metadata = _text(pair.get(2, memoryview(b"")))
            elif number == _GRAPH and isinstance(value, memoryview):
                _check_graph(value, file, depth=0)
            elif number == _FUNCTIONS:
                raise ExportedFileError(f"{file}: refused: it defines functions, which perceiver.export never writes.")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, ExportedFileError):
            raise
        raise ExportedFileError(f"{file}: not an ONNX file, or damaged ({len(content):,} bytes): {error}.") from error
    if opset is None or metadata is None:
        raise ExportedFileError(f"{file}: expected an ONNX file of perceiver.export; it has no metadata {KEY!r}.")
    return OnnxFile(path=file, content=content, opset=opset, metadata=_metadata(metadata, file))


def _in_run(folder: Path) -> Path:
    for candidate in ("export/model.onnx", "model.onnx"):
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(
        f"{folder}: expected a run directory with export/model.onnx; write it with: python train.py mode=export "
        f"ckpt_path={folder}"
    )


def _metadata(text: str, file: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError(f"it is a {type(metadata).__name__}")
    except (ValueError, RecursionError) as error:
        raise ExportedFileError(f"{file}: its metadata {KEY!r} is not a JSON object: {str(error)[:200]}.") from None
    found = metadata.get("format")
    if found != FORMAT:
        versions = metadata.get("versions")
        writer = versions.get("perceiver") if isinstance(versions, dict) else None
        raise ExportedFileError(
            f"{file}: its metadata has the format {str(found)[:20]}, written by perceiver-multimodal {str(writer)[:20]}; "
            f"this version reads format {FORMAT}. Export the model again, or upgrade perceiver-multimodal."
        )
    return metadata


def _check_graph(graph: memoryview, file: Path, *, depth: int) -> None:
    """Refuse tensors in other files, operators outside the standard, and control flow, which could run forever."""
    if depth > _MAX_DEPTH:
        raise ExportedFileError(f"{file}: refused: its graphs are nested too deeply.")
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _INITIALIZERS:
            _check_tensor(value, file)
        elif number == _SPARSE:
            raise ExportedFileError(f"{file}: refused: it has sparse tensors, which perceiver.export never writes.")
        elif number == _NODES:
            operator, domain = "", ""
            for own, content in _fields(value):
                if not isinstance(content, memoryview):
                    continue
                if own == _OPERATOR:
                    operator = _text(content)
                elif own == _NODE_DOMAIN:
                    domain = _text(content)
                elif own == _ATTRIBUTES:
                    _check_attribute(content, file, depth=depth)
            if domain not in _DOMAINS or operator in _CONTROL_FLOW:
                raise ExportedFileError(
                    f"{file}: refused: its operator {f'{domain} {operator}'.strip()[:80]!r} is one that perceiver.export "
                    "never writes."
                )


def _check_attribute(attribute: memoryview, file: Path, *, depth: int) -> None:
    for number, value in _fields(attribute):
        if isinstance(value, memoryview):
            if number in (_TENSOR, _TENSORS):
                _check_tensor(value, file)
            elif number in (_SUBGRAPH, _SUBGRAPHS):
                _check_graph(value, file, depth=depth + 1)


def _check_tensor(tensor: memoryview, file: Path) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL_DATA or (number == _LOCATION and value != 0):
            raise ExportedFileError(
                f"{file}: refused: a tensor lies in another file, which an exported model may not name. Export the model "
                "again."
            )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the content of each field; ValueError if the message is damaged."""
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if place + size > end:
            raise ValueError("a field is longer than the file")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number has no end")


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8")
