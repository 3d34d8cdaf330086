"""Save and load a model together with the config and the spec that rebuild it.

A checkpoint is a torch file of plain values and tensors: `state_dict` with the prefix `model.` (as Lightning writes it)
and `perceiver` = {format, config, spec}. Loading runs nothing that the file names except constructors of nn.Module
classes from packages that are trusted by name, see perceiver.checkpoints.trusted_classes.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from perceiver.checkpoints.allocation import limit_allocation, show_bytes
from perceiver.checkpoints.build import build_model, canonical
from perceiver.checkpoints.compare import PREFIX
from perceiver.checkpoints.plain import PlainError, plain
from perceiver.checkpoints.trusted_kinds import import_kinds
from perceiver.model import Perceiver
from perceiver.runtime.files import atomic_write

FORMAT = 1
KEY = "perceiver"
RUN_CANDIDATES = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")

_COMPILED = "_orig_mod."  # torch.compile wraps a module under this name
_MAX_LISTED = 8
# What building may take beyond a multiple of what the file holds: constructors make temporary and unsaved tensors too.
_SLACK_BYTES = 10**9
_SLACK_MODULES = 1000


class CheckpointError(ValueError):
    """A file is no usable checkpoint; the message names the file, what was expected and what was found."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a checkpoint says besides its weights: its `file`, the run's `config` (with the key `model`) and the `spec`."""

    file: Path
    config: dict[str, Any]
    spec: dict[str, Any] | None


def entry(config: Mapping[str, Any], spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """What belongs under the key `perceiver` of a checkpoint, whoever writes the file.

    `config` is a run's resolved plain config with the key `model`; there every `_target_` is rewritten to the class's own
    spelling (perceiver.checkpoints.build.canonical). Raises ValueError, naming the path, where config or spec are not plain.
    """
    tree = plain(config, path="config")
    if type(tree) is not dict or type(tree.get("model")) is not dict:
        raise CheckpointError("config: expected a run's resolved config, a mapping with the key model")
    tree["model"] = canonical(tree["model"])
    return {"format": FORMAT, "config": tree, "spec": None if spec is None else plain(spec, path="spec")}


def save(
    model: nn.Module,
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Path:
    """Write the weights of `model` with `config` (a mapping with the key `model`, what it was built from) and `spec`.

    Where `config` is None both are the model's own, `model.config` and `model.spec`, unless `spec` is given.
    The file appears whole or not at all: an older file of the same name stays until the new one is on the disk.
    Missing folders are made. Returns the path. Raises ValueError for a config or spec that could not be loaded again, and
    OSError (with errno ENOSPC where the disk is full) when writing fails.
    """
    file = Path(path)
    if config is None:
        own = getattr(model, "config", None)
        if own is None:
            raise CheckpointError("save: the model does not say what it was built from; give config={'model': …}")
        config, spec = {"model": own}, getattr(model, "spec", None) if spec is None else spec
    if file.is_dir():
        raise IsADirectoryError(f"{file}: is a folder; give the name of the file to write, such as {file / 'model.ckpt'}")
    state = {PREFIX + name: value for name, value in _plain_state(model).items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, KEY: entry(config, spec)}, buffer)
    content = buffer.getbuffer()
    with atomic_write(file, expected_bytes=content.nbytes) as stream:
        stream.write(content)
    return file


def find(path: str | Path) -> Path:
    """The checkpoint file that `path` means: the file itself, or in a run directory the best one, else the last one.

    Raises FileNotFoundError that lists what is there.
    """
    given = Path(path)
    if given.is_file():
        return given
    if not given.exists():
        raise FileNotFoundError(f"{given}: there is no such file or folder; expected a checkpoint or a run directory")
    for candidate in RUN_CANDIDATES:
        if (given / candidate).is_file():
            return given / candidate
    names = sorted(str(file.relative_to(given)) for file in [*given.glob("*.ckpt"), *given.glob("*/*.ckpt")])
    found = ", ".join(names[:_MAX_LISTED]) if names else "no .ckpt file"
    raise FileNotFoundError(
        f"{given}: expected a run directory with {' or '.join(RUN_CANDIDATES)}, found {found}"
        + ("; give one of these files itself" if names else "; did the run finish its first epoch?")
    )


def read(path: str | Path) -> Recipe:
    """Config and spec of a checkpoint or run directory, without building a model. Raises as `load` does for the file."""
    file = find(path)
    return recipe_of(_load_plain(file), file)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint or run directory by their names in the model, without building one.

    Raises as `load` does for the file.
    """
    file = find(path)
    content = _load_plain(file)
    recipe_of(content, file)
    return _state(content, file)


def load(path: str | Path, *, trust: Sequence[str] = (), device: str | torch.device = "cpu") -> Perceiver:
    """Rebuild the model of a checkpoint or run directory, in evaluation mode, with its spec, on `device`.

    `trust` names further packages whose classes the file may name, modules and kinds of modality: trust=["my_package"].
    Weights keep the floating-point type that they have in the file.

    Raises FileNotFoundError, CheckpointError for a file that is damaged, hostile or of another architecture, and
    the ValueErrors of perceiver.build_model for its config. Nothing is returned half-loaded.
    """
    file = find(path)
    content = _load_plain(file)
    recipe = recipe_of(content, file)
    return assemble(recipe, _state(content, file), trust=trust).to(device).eval()


def assemble(recipe: Recipe, state: Mapping[str, Tensor], *, trust: Sequence[str] = ()) -> Perceiver:
    """The model that a recipe describes, with the weights `state`, whatever files both came from.

    `trust` is as in `load`. Raises as `load` does; nothing is returned half-loaded.
    """
    file = recipe.file
    try:
        import_kinds(recipe.spec, trust=trust)
        with torch.random.fork_rng(devices=[]), limit_to(state, source="the file"):
            model = build_model(recipe.config["model"], trust=trust, spec=recipe.spec)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    _fill(model, state, file)
    return model


def limit_to(state: Mapping[str, Tensor], *, source: str) -> AbstractContextManager[None]:
    """Inside, what is built may take no more than a multiple of the weights `state` of the file that describes it.

    `source` names that file in the error, an AllocationError, which `build_model` turns into a ConfigError.
    """
    stored = _stored_bytes(state)
    return limit_allocation(
        max_bytes=4 * stored + _SLACK_BYTES,
        max_modules=20 * len(state) + _SLACK_MODULES,
        reason=f"{source} holds {len(state)} tensors, {show_bytes(stored)}, so its config does not belong to them",
    )


def _stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes really in the file: a tensor may claim any shape over a tiny storage."""
    storages = [value.untyped_storage() for value in state.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    return {name.replace(_COMPILED, ""): value.detach() for name, value in model.state_dict().items()}


def _load_plain(file: Path) -> dict[str, Any]:
    """The file's dict of tensors and plain values; CheckpointError for anything else."""
    try:
        with open(file, "rb") as stream:
            check_archive(stream, file)
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(str(error), file)) from error
    except (
        RuntimeError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
        ValueError,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: the file is damaged or no checkpoint: {_first_line(error)}") from error
    if type(content) is not dict:
        raise CheckpointError(f"{file}: {_not_ours(f'a {type(content).__name__}')}")
    return content


def check_archive(stream: BinaryIO, file: Path) -> None:
    """Refuse what torch.save does not write; torch.load itself reads damaged weights and old pickles without a word."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointError(f"{file}: the file is empty; writing it was interrupted. Copy or train it again")
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    if start != b"PK\x03\x04":
        raise CheckpointError(f"{file}: not a checkpoint: it does not begin as a file of torch.save does ({size:,} bytes)")
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{file}: not a checkpoint: its parts are compressed, torch.save never does that")
            if sum(member.file_size for member in members) > size:
                raise CheckpointError(f"{file}: the file is damaged: its parts claim to be larger than the file")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{file}: the file is truncated or damaged ({size:,} bytes): {error}. Copy it again, or take another checkpoint"
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{file}: the file is damaged: the check sum of its part {damaged} is wrong. Copy it again")


def _refused(message: str, file: Path) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"([\w.]+) was not an allowed global", message)
    what = f"it names {named.group(1)}" if named else f"it is not readable as plain values ({_first_line(message)})"
    return (
        f"{file}: refused without running anything in it: {what}; "
        "a checkpoint holds only tensors and plain values. Ask its author for one that perceiver.checkpoints.save wrote"
    )


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _not_ours(found: str) -> str:
    return (
        f"holds no model of this package: expected a checkpoint with the entry {KEY!r} (config and spec), "
        f"as perceiver.checkpoints.save or a training run writes it, found {found}"
    )


def recipe_of(content: dict[str, Any], file: Path) -> Recipe:
    """What the entry `perceiver` of a file's content says; CheckpointError, naming the file, where it is none of ours."""
    said = content.get(KEY)
    if type(said) is not dict:
        keys = ", ".join(repr(key)[:40] for key in list(content)[:_MAX_LISTED]) or "nothing"
        raise CheckpointError(f"{file}: {_not_ours(f'the keys {keys}')}")
    version = said.get("format")
    if type(version) is not int or version != FORMAT:
        shown = version if type(version) is int and abs(version) < 10**9 else f"a {type(version).__name__}"
        hint = "; upgrade perceiver-multimodal" if type(version) is int and version > FORMAT else ""
        raise CheckpointError(f"{file}: unknown checkpoint format {shown}; this version reads format {FORMAT}{hint}")
    try:
        config = plain(said.get("config"), path="config")
        spec = plain(said.get("spec"), path="spec")
    except PlainError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if type(config) is not dict or type(config.get("model")) is not dict:
        raise CheckpointError(f"{file}: its config describes no model: expected a mapping with the key model")
    if spec is not None and type(spec) is not dict:
        raise CheckpointError(f"{file}: its spec is a {type(spec).__name__}; expected a mapping")
    return Recipe(file=file, config=config, spec=spec)


def _state(content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The model's own tensors, without the prefix; a training run's other entries (metrics) are left out."""
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: has no state_dict, so no weights; expected a mapping from name to tensor")
    own = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith(PREFIX):
            continue
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(f"{file}: state_dict[{name[:100]!r}] is not an ordinary tensor")
        own[name.removeprefix(PREFIX).replace(_COMPILED, "")] = value.detach()
    if not own:
        raise CheckpointError(f"{file}: its state_dict has no entry that begins with {PREFIX!r}, so no weights of a model")
    return own


def _fill(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Copy all tensors into the model, in the types of the file, after every name, shape and kind was compared."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    problems = listed_names("missing in the file", missing, lambda name: str(tuple(own[name].shape)))
    problems += listed_names("not in the model", unexpected, lambda name: str(tuple(state[name].shape)))
    common = [name for name in own if name in state]
    problems += listed_names(
        "of another shape",
        [name for name in common if own[name].shape != state[name].shape],
        lambda name: f"file {tuple(state[name].shape)}, model {tuple(own[name].shape)}",
    )
    problems += listed_names(
        "of another kind of number",
        [name for name in common if own[name].is_floating_point() != state[name].is_floating_point()],
        lambda name: f"file {state[name].dtype}, model {own[name].dtype}",
    )
    if problems:
        raise CheckpointError(
            f"{file}: its weights do not fit the model of its config (was the code changed since?):\n" + "\n".join(problems)
        )
    take_over(model, state)


def take_over(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy all tensors into the model, whose parameters and buffers become of their types. They must fit."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state)


def listed_names(title: str, names: Sequence[str], describe: Callable[[str], str]) -> list[str]:
    """Lines of a message: how many names there are, and the first of them, described; none where there are no names."""
    if not names:
        return []
    shown = [f"    {name[:120]} {describe(name)}" for name in names[:_MAX_LISTED]]
    more = [f"    … and {len(names) - _MAX_LISTED} more"] if len(names) > _MAX_LISTED else []
    return [f"  {title}: {len(names)}", *shown, *more]
