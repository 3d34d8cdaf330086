"""Files that a stranger might send: each one tries to run something, to read a secret or to exhaust the machine.

A payload that was run leaves a marker: a file whose path is given. A secret that was read stands in a run directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SECRET_NAME, SECRET = "PERCEIVER_TEST_SECRET", "cat-7f3e-secret"
"""An environment variable, and its value, which no file of a run may hold."""

REFERENCES = (
    "${oc.env:" + SECRET_NAME + "}",
    "${seed}",
    "${x}",
    "???",
    "${",
    "\\${seed}",
    "{_target_: os.getcwd}",
    "a: &a [*a]",
)
"""Strings that configuration languages take for their own, as class labels or folder names."""


def payload(marker: Path) -> dict[str, Any]:
    """A node that makes the file `marker` if something instantiates it."""
    return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(marker)]}]}


def payload_by_name(marker: Path) -> dict[str, Any]:
    """The same in other words, with keyword arguments only."""
    return {"_target_": "shutil.copy", "src": __file__, "dst": str(marker)}


def checkpoint_with_spec(source: Path, written: Path, changes: dict[str, Any]) -> Path:
    """The checkpoint `source` with other entries in its spec: `{"target.counts": value}`; returns `written`."""
    return checkpoint_with(source, written, {f"spec.{place}": value for place, value in changes.items()})


def checkpoint_with_config(source: Path, written: Path, changes: dict[str, Any]) -> Path:
    """The checkpoint `source` with other values in its config, as `checkpoint_with_spec`."""
    return checkpoint_with(source, written, {f"config.{place}": value for place, value in changes.items()})


def checkpoint_with(source: Path, written: Path, changes: dict[str, Any]) -> Path:
    """The checkpoint `source` with other entries of spec and config: `{"spec.target.counts": value}`; returns `written`."""
    content = torch.load(source, map_location="cpu", weights_only=True)
    for place, value in changes.items():
        set_at(content["perceiver"], place, value)
    written.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, written)
    return written


def shards_with_spec(folder: Path, changes: dict[str, Any]) -> Path:
    """Shards whose `shards.json` has other entries in its spec, changed in place; returns the folder."""
    file = folder / "shards.json"
    content = json.loads(file.read_text())
    for place, value in changes.items():
        set_at(content["spec"], place, value)
    file.write_text(json.dumps(content))
    return folder


def alias_bomb(folder: Path, *, levels: int = 9) -> Path:
    """A `config.yaml` of a few hundred bytes with 9 ** levels values when aliases are written out; returns the file."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text("\n".join([*lines, "data:", "  _target_: perceiver.data.manifest.Manifest", ""]))
    return file


def deep_yaml(folder: Path, *, levels: int = 100_000) -> Path:
    """A `config.yaml` that is nested very deeply; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text("a: " + "[" * levels)
    return file


def large_yaml(folder: Path, *, size: int = 2**33) -> Path:
    """A `config.yaml` of 8 GiB, which takes no room on the disk; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    with file.open("wb") as stream:
        stream.truncate(size)
    return file


def set_at(tree: dict[str, Any], place: str, value: Any) -> None:
    """Put a value at a dotted place of nested dicts."""
    *way, last = place.split(".")
    for key in way:
        tree = tree[key]
    tree[last] = value


def files_with(text: str, folder: Path) -> list[Path]:
    """The files of a folder, at any depth, whose bytes hold a text; checkpoints included, which are stored uncompressed."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and text.encode() in file.read_bytes()]
