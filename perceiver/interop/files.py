"""Read a directory of transformers: config.json and weights in safetensors or PyTorch format. Never runs code from it."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceiver.checkpoints.file import CheckpointError, check_archive

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PYTORCH = "pytorch_model.bin"
NEXT_CONFIG = ".config.json.next"
"""The config of new weights, until it replaces `config.json`."""
CONFIG_DIGEST = "perceiver.config.sha256"
"""Metadata of `model.safetensors`: the digest of the config that was written with it."""
MOST_TEXT_BYTES = 2**25
"""Largest size of a config, or of the header of a safetensors file, which names each tensor."""


class WeightFileError(ValueError):
    """A directory or file has an unexpected format; the message names it, what was expected and what was found."""


def read_config(directory: Path, *, maker: str) -> dict[str, Any]:
    """Return the values of `config.json`. `maker` is the function that writes such directories, for error messages.

    Raises:
        FileNotFoundError: if the directory or its config does not exist.
        WeightFileError: if the config is not a JSON object.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: expected a directory written by {maker}, but it does not exist")
    file = config_file(directory)
    if not file.is_file():
        found = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"{directory}: has no {CONFIG}; expected a directory written by {maker}, found {found}")
    if (size := file.stat().st_size) > MOST_TEXT_BYTES:
        raise WeightFileError(f"{file}: expected at most {MOST_TEXT_BYTES:,} bytes of JSON, got {size:,}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_refuse_constant)
    except RecursionError:
        raise WeightFileError(f"{file}: expected JSON: its lists or objects are nested too deeply") from None
    except ValueError as error:  # also raised for integers with thousands of digits
        raise WeightFileError(f"{file}: expected JSON: {error}") from error
    if not isinstance(values, dict):
        raise WeightFileError(f"{file}: expected a JSON object, got {type(values).__name__}")
    return values


def config_file(directory: Path) -> Path:
    """Return the config that belongs to a directory's weights: `config.json`, which need not exist.

    After an interrupted `perceiver.interop.hub.save_pretrained`, it is still under another name.
    """
    file, following = directory / CONFIG, directory / NEXT_CONFIG
    if following.is_file() and not following.is_symlink():
        wanted = _stated_digest(directory / SAFETENSORS)
        if wanted is not None and wanted != _digest_of(file) and wanted == _digest_of(following):
            return following
    return file


def digest(config: bytes) -> str:
    """Return the digest of a config for `CONFIG_DIGEST`."""
    return hashlib.sha256(config).hexdigest()


def _digest_of(file: Path) -> str | None:
    if not file.is_file() or file.stat().st_size > MOST_TEXT_BYTES:
        return None
    return digest(file.read_bytes())


def _stated_digest(weights: Path) -> str | None:
    """Return the digest of the config that a safetensors file belongs to; None if it states none or is damaged."""
    try:
        _check_header(weights)
        with weights.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        stated = header["__metadata__"][CONFIG_DIGEST]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return stated if isinstance(stated, str) else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is out of range")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def read_weights(directory: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the weight file of a directory, and its tensors by name.

    Raises:
        FileNotFoundError: if the directory has no weight file.
        WeightFileError: if the file has another format, is damaged, or holds anything but tensors.
    """
    for name, read in ((SAFETENSORS, _read_safetensors), (PYTORCH, _read_pytorch)):
        file = directory / name
        if file.is_file():
            return file, read(file)
    shards = [file.name for file in directory.glob("*.index.json")]
    hint = f"; the weights are sharded ({shards[0]}). Save them in a single file" if shards else ""
    raise FileNotFoundError(f"{directory}: has neither {SAFETENSORS} nor {PYTORCH}{hint}")


def read_weight_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name: safetensors, or a state dict written by `torch.save`.

    Raises like `read_weights`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a file with weights, but it does not exist")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pytorch(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{file}: reading it requires safetensors; pip install 'perceiver-multimodal[hf]'") from error
    _check_header(file)
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightFileError(f"{file}: not a safetensors file, or damaged: {_first_line(error)}. Copy it again") from error
    return tensors


def _check_header(file: Path) -> None:
    """Raise WeightFileError if the header of a safetensors file is larger than the file or implausibly large."""
    with file.open("rb") as stream:
        start = stream.read(8)
    room = min(file.stat().st_size - 8, MOST_TEXT_BYTES)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= room:
        raise WeightFileError(
            f"{file}: not a safetensors file, or damaged: its header claims {length:,} bytes, expected 2 to "
            f"{max(room, 0):,}. Copy it again"
        )


def _read_pytorch(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as stream:
            check_archive(stream, file)
    except CheckpointError as error:
        raise WeightFileError(
            f"{error}. If it was written by PyTorch before 1.6, load it with transformers and save it again as {SAFETENSORS}"
        ) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightFileError(
            f"{file}: refused, and none of its code was run: it holds other objects than tensors ({_first_line(error)})"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise WeightFileError(f"{file}: not written by torch.save, or damaged: {_first_line(error)}") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightFileError(f"{file}: expected tensors by name, got {type(content).__name__} with other values")
    return dict(content)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
