"""Reads a directory of transformers: config.json and weights, from safetensors or PyTorch's format; runs nothing in it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PYTORCH = "pytorch_model.bin"


class WeightFileError(ValueError):
    """A directory or file cannot be read as what it should be; the message names it, what was expected and what came."""


def read_config(directory: Path, *, maker: str) -> dict[str, Any]:
    """The values of `config.json`. `maker` says in errors who writes such directories.

    Raises:
        FileNotFoundError: if there is no such directory, or no config in it.
        WeightFileError: if it holds no JSON object.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: there is no such directory; expected one that {maker} wrote")
    file = directory / CONFIG
    if not file.is_file():
        there = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"{directory}: has no {CONFIG}; expected a directory that {maker} wrote, found {there}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightFileError(f"{file}: expected JSON: {error}") from error
    if not isinstance(values, dict):
        raise WeightFileError(f"{file}: expected a JSON object, got {type(values).__name__}")
    return values


def read_weights(directory: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of weights in a directory, and its tensors by name.

    Raises:
        FileNotFoundError: if there is none.
        WeightFileError: if it is of another format, damaged, or holds anything but tensors.
    """
    for name, read in ((SAFETENSORS, _read_safetensors), (PYTORCH, _read_pytorch)):
        file = directory / name
        if file.is_file():
            return file, read(file)
    shards = [file.name for file in directory.glob("*.index.json")]
    hint = f"; the weights are in several files ({shards[0]}), save them in one" if shards else ""
    raise FileNotFoundError(f"{directory}: has neither {SAFETENSORS} nor {PYTORCH}{hint}")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{file}: reading it needs safetensors; pip install 'perceiver-multimodal[hf]'") from error
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightFileError(f"{file}: not a safetensors file, or damaged: {_first_line(error)}. Copy it again") from error
    return tensors


def _read_pytorch(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightFileError(
            f"{file}: refused without running anything in it: it holds more than tensors ({_first_line(error)})"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise WeightFileError(f"{file}: not a file of torch.save, or damaged: {_first_line(error)}") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise WeightFileError(f"{file}: expected tensors by name, got {type(content).__name__} with other values")
    return dict(content)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
