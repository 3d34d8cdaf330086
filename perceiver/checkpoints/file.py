"""Save and load a model together with the config and the spec that rebuild it.

A checkpoint is a torch file of plain values and tensors: `state_dict` with the prefix `model.` (as Lightning writes it)
and `perceiver` = {format, config, spec}. The only code that loading a file can run is constructors of nn.Module classes
from trusted packages, see perceiver.checkpoints.trusted_classes.
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
from perceiver.checkpoints.spec import check_spec
from perceiver.checkpoints.trusted_kinds import import_kinds
from perceiver.model import Perceiver
from perceiver.runtime.files import atomic_write
from perceiver.runtime.plain import PlainError, plain

FORMAT = 1
KEY = "perceiver"
RUN_CANDIDATES = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")

_COMPILED = "_orig_mod."  # torch.compile wraps a module under this name
_MAX_LISTED = 8
# Allowance beyond a multiple of the file's contents, because constructors also create temporary and unsaved tensors. Random
# initial values for it take a second or two.
_SLACK_BYTES = 2**26
_SLACK_MODULES = 1000


class CheckpointError(ValueError):
    """A file is not a usable checkpoint; the message names the file, what was expected and what was found."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checkpoint without its weights: its `file`, the run's `config` (with the key `model`) and the `spec`."""

    file: Path
    config: dict[str, Any]
    spec: dict[str, Any] | None

    def section(self, name: str) -> dict[str, Any]:
        """Return a mapping of the run's config, such as `task`; empty if missing. CheckpointError for any other value."""
        section = self.config.get(name)
        if section is not None and type(section) is not dict:
            raise CheckpointError(
                f"{self.file}: its config.{name} is a {type(section).__name__}; expected a mapping. Copy the file again"
            )
        return section or {}


def entry(config: Mapping[str, Any], spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the entry for the key `perceiver` of a checkpoint.

    `config` is a run's resolved plain config with the key `model`, in which every `_target_` is replaced by the class's
    canonical name (perceiver.checkpoints.build.canonical). Raises ValueError, with the path, if config or spec could not be
    loaded again.
    """
    tree = plain(config, path="config")
    if type(tree) is not dict or type(tree.get("model")) is not dict:
        raise CheckpointError("config: expected a run's resolved config, a mapping with the key model")
    tree["model"] = canonical(tree["model"])
    entry = None if spec is None else plain(spec, path="spec")
    if entry is not None:
        check_spec(entry)
    return {"format": FORMAT, "config": tree, "spec": entry}


def save(
    model: nn.Module,
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Path:
    """Write the weights of `model` with `config` (a mapping whose key `model` is the model's config) and `spec`.

    If `config` is None, `model.config` and `model.spec` are used (`spec` takes precedence if given). Writing is atomic: an
    older file of the same name stays until the new file is on the disk. Missing folders are created. Returns the path.
    Raises ValueError for a config or spec that could not be loaded again, and OSError (with errno ENOSPC if the disk is
    full) if writing fails.

    Examples:
        >>> import tempfile
        >>> from perceiver.checkpoints.build import build_model
        >>> from perceiver import load, save
        >>> vector = {"_target_": "perceiver.adapters.Vector", "vector_channels": 5}
        >>> encoder = {"_target_": "perceiver.Encoder", "num_latents": 4, "latent_channels": 8}
        >>> head = {"_target_": "perceiver.PooledHead", "num_classes": 3}
        >>> config = {"_target_": "perceiver.Perceiver", "adapters": {"vector": vector}, "encoder": encoder, "head": head}
        >>> model = build_model(config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(model, f"{folder}/model.ckpt")
        ...     restored = load(path)
        >>> restored.encoder.num_latents
        4
    """
    file = Path(path)
    if config is None:
        own = getattr(model, "config", None)
        if own is None:
            raise CheckpointError("save: the model has no config; give config={'model': …}")
        config, spec = {"model": own}, getattr(model, "spec", None) if spec is None else spec
    if file.is_dir():
        raise IsADirectoryError(f"{file}: expected a file to write, got a folder; give a name such as {file / 'model.ckpt'}")
    state = {PREFIX + name: value for name, value in _plain_state(model).items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, KEY: entry(config, spec)}, buffer)
    content = buffer.getbuffer()
    with atomic_write(file, expected_bytes=content.nbytes) as stream:
        stream.write(content)
    return file


def find(path: str | Path) -> Path:
    """Return the checkpoint file for `path`: the file itself, or in a run directory the best, else the last checkpoint.

    Raises FileNotFoundError that lists the checkpoints found.
    """
    given = Path(path)
    if given.is_file():
        return given
    if not given.exists():
        raise FileNotFoundError(f"{given}: no such file or folder; expected a checkpoint or a run directory")
    for candidate in RUN_CANDIDATES:
        if (given / candidate).is_file():
            return given / candidate
    if any((given / "fold_0" / candidate).is_file() for candidate in RUN_CANDIDATES):
        raise FileNotFoundError(f"{given}: is a cross-validation, a model per fold; give a single fold: {given / 'fold_0'}")
    names = sorted(str(file.relative_to(given)) for file in [*given.glob("*.ckpt"), *given.glob("*/*.ckpt")])
    found = ", ".join(names[:_MAX_LISTED]) if names else "no .ckpt file"
    raise FileNotFoundError(
        f"{given}: expected a run directory with {' or '.join(RUN_CANDIDATES)}, found {found}"
        + ("; give one of these files" if names else "; did the run finish its first epoch?")
    )


def read(path: str | Path) -> Recipe:
    """Read config and spec of a checkpoint or run directory, without building a model. Raises like `load` for the file."""
    file = find(path)
    return recipe_of(_load_plain(file), file)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint or run directory by their names in the model, without building a model.

    Raises like `load` for the file.
    """
    file = find(path)
    content = _load_plain(file)
    recipe_of(content, file)
    return _state(content, file)


def load(path: str | Path, *, trust: Sequence[str] = (), device: str | torch.device = "cpu") -> Perceiver:
    """Rebuild the model of a checkpoint or run directory, in evaluation mode, with its spec, on `device`.

    `trust` lists further packages whose classes the file may name, modules and kinds of modality: trust=["my_package"].
    Weights keep their floating-point type in the file.

    Raises FileNotFoundError, CheckpointError for a file that is damaged, malicious or of another architecture, and
    the ValueErrors of perceiver.build_model for its config. A partly loaded model is never returned.

    Examples:
        >>> from perceiver import load
        >>> load("no/such/run")
        Traceback (most recent call last):
            ...
        FileNotFoundError: no/such/run: no such file or folder; expected a checkpoint or a run directory
    """
    file = find(path)
    content = _load_plain(file)
    recipe = recipe_of(content, file)
    return assemble(recipe, _state(content, file), trust=trust).to(device).eval()


def assemble(recipe: Recipe, state: Mapping[str, Tensor], *, trust: Sequence[str] = ()) -> Perceiver:
    """Build the model of a recipe with the weights `state`; the two may come from different files.

    `trust` is as in `load`. Raises like `load`; a partly loaded model is never returned.
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
    """Limit the memory for building modules within the context to a multiple of the stored weights `state`.

    `source` names the weights' file in the AllocationError, which `build_model` turns into a ConfigError.
    """
    stored = _stored_bytes(state)
    return limit_allocation(
        max_bytes=4 * stored + _SLACK_BYTES,
        max_modules=20 * len(state) + _SLACK_MODULES,
        reason=f"{source} holds {len(state)} tensors, {show_bytes(stored)}, so the config does not match them",
    )


def _stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Return the bytes actually stored: a tensor may claim any shape over a tiny storage."""
    storages = [value.untyped_storage() for value in state.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    return {name.replace(_COMPILED, ""): value.detach() for name, value in model.state_dict().items()}


def _load_plain(file: Path) -> dict[str, Any]:
    """Read the file's dict of tensors and plain values; raise CheckpointError for anything else."""
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
        raise CheckpointError(f"{file}: the file is damaged or not a checkpoint: {_first_line(error)}") from error
    if type(content) is not dict:
        raise CheckpointError(f"{file}: {_not_ours(f'a {type(content).__name__}')}")
    return content


def check_archive(stream: BinaryIO, file: Path) -> None:
    """Refuse files that torch.save cannot have written; torch.load silently accepts damaged weights and old pickles."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointError(
            f"{file}: the file is empty, probably because writing was interrupted. Copy it again, or train again"
        )
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    if start != b"PK\x03\x04":
        raise CheckpointError(f"{file}: not a checkpoint: it does not start like a file of torch.save ({size:,} bytes)")
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{file}: not a checkpoint: its parts are compressed, which torch.save never does")
            if sum(member.file_size for member in members) > size:
                raise CheckpointError(f"{file}: the file is damaged: its parts claim to be larger than the file")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{file}: the file is truncated or damaged ({size:,} bytes): {error}. Copy it again, or use another checkpoint"
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{file}: the file is damaged: the checksum of its part {damaged} is wrong. Copy it again")


def _refused(message: str, file: Path) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"([\w.]+) was not an allowed global", message)
    what = f"it names {named.group(1)}" if named else f"it is not readable as plain values ({_first_line(message)})"
    return (
        f"{file}: refused, and none of its code was run: {what}; a checkpoint may hold only tensors and plain values. "
        "Ask the author for a checkpoint written by perceiver.checkpoints.save"
    )


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _not_ours(found: str) -> str:
    return (
        f"not a model of this package: expected a checkpoint with the entry {KEY!r} (config and spec), "
        f"as written by perceiver.checkpoints.save or a training run, found {found}"
    )


def recipe_of(content: dict[str, Any], file: Path) -> Recipe:
    """Return the recipe in the entry `perceiver` of a file's content; CheckpointError, naming the file, if it is invalid."""
    stored = content.get(KEY)
    if type(stored) is not dict:
        keys = ", ".join(repr(key)[:40] for key in list(content)[:_MAX_LISTED]) or "nothing"
        raise CheckpointError(f"{file}: {_not_ours(f'the keys {keys}')}")
    version = stored.get("format")
    if type(version) is not int or version != FORMAT:
        shown = version if type(version) is int and abs(version) < 10**9 else f"a {type(version).__name__}"
        hint = "; upgrade perceiver-multimodal" if type(version) is int and version > FORMAT else ""
        raise CheckpointError(f"{file}: unknown checkpoint format {shown}; this version reads format {FORMAT}{hint}")
    try:
        config = plain(stored.get("config"), path="config")
        spec = plain(stored.get("spec"), path="spec")
        if spec is not None:
            check_spec(spec)
    except PlainError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if type(config) is not dict or type(config.get("model")) is not dict:
        raise CheckpointError(f"{file}: config: expected a mapping with the key model")
    return Recipe(file=file, config=config, spec=spec)


def _state(content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Return the model's tensors by name without the prefix; other entries of a training run (metrics) are left out."""
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: state_dict: expected a mapping from name to tensor, found no weights")
    own = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith(PREFIX):
            continue
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(f"{file}: state_dict[{name[:100]!r}] is not an ordinary tensor")
        own[name.removeprefix(PREFIX).replace(_COMPILED, "")] = value.detach()
    if not own:
        raise CheckpointError(f"{file}: state_dict: expected weights of a model, found no entry that begins with {PREFIX!r}")
    return own


def _fill(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Check every name, shape and kind, then copy all tensors into the model, in the types of the file."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    problems = listed_names("missing from the file", missing, lambda name: str(tuple(own[name].shape)))
    problems += listed_names("not in the model", unexpected, lambda name: str(tuple(state[name].shape)))
    common = [name for name in own if name in state]
    problems += listed_names(
        "different shape",
        [name for name in common if own[name].shape != state[name].shape],
        lambda name: f"file {tuple(state[name].shape)}, model {tuple(own[name].shape)}",
    )
    problems += listed_names(
        "different dtype",
        [name for name in common if own[name].is_floating_point() != state[name].is_floating_point()],
        lambda name: f"file {state[name].dtype}, model {own[name].dtype}",
    )
    if problems:
        raise CheckpointError(
            f"{file}: its weights do not fit the model of its config (has the code changed since?):\n" + "\n".join(problems)
        )
    take_over(model, state)


def take_over(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy all tensors into the model, converting its parameters and buffers to their types. Names and shapes must match."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state)


def listed_names(title: str, names: Sequence[str], describe: Callable[[str], str]) -> list[str]:
    """Return lines for an error message: the number of names and the first of them, described; empty without names."""
    if not names:
        return []
    shown = [f"    {name[:120]} {describe(name)}" for name in names[:_MAX_LISTED]]
    more = [f"    … and {len(names) - _MAX_LISTED} more"] if len(names) > _MAX_LISTED else []
    return [f"  {title}: {len(names)}", *shown, *more]
