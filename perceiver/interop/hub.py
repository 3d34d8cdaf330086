"""Models as directories of the Hugging Face Hub: `config.json` and `model.safetensors` (extra `hf`).

`save_pretrained` and `from_pretrained` work on local directories. `HubPerceiver` offers them as a
`huggingface_hub.PyTorchModelHubMixin`, which needs the network for `push_to_hub` and for repository names. The classes that
a config names are restricted as in `perceiver.load`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save as save_tensors
from torch import nn

from perceiver.checkpoints.file import (
    KEY,
    CheckpointError,
    assemble,
    entry,
    load,
    read,
    recipe_of,
)
from perceiver.exported.onnx_file import step_path
from perceiver.interop.card import model_card
from perceiver.interop.files import CONFIG, CONFIG_DIGEST, NEXT_CONFIG, SAFETENSORS, digest, read_config, read_weights
from perceiver.model import Perceiver
from perceiver.runtime.files import atomic_write, flush_folder, remove_leftovers

log = logging.getLogger(__name__)

_MAX_METRICS = 2**20  # bytes


def save_pretrained(model: Perceiver, directory: str | Path) -> Path:
    """Write config, spec and weights of a model to a directory, created if missing, and return the directory.

    If writing is interrupted at any moment, `from_pretrained` returns the earlier model or the new one. Other files in the
    directory stay.

    Raises:
        CheckpointError: if the model has no config (`model.config`).
        DiskFullError: if the disk is full; the earlier model is intact.
    """
    folder = Path(directory)
    if model.config is None:
        raise CheckpointError(
            "save_pretrained: the model has no config; expected a model from perceiver.load, from_transformers or "
            "perceiver.checkpoints.build.build_model"
        )
    config = (json.dumps({KEY: entry({"model": model.config}, model.spec)}, indent=2) + "\n").encode()
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = save_tensors(state, metadata={"format": "pt", CONFIG_DIGEST: digest(config)})
    for name in (NEXT_CONFIG, SAFETENSORS):
        remove_leftovers(folder, name=name)
    # The weights decide which config is valid, so that replacing them replaces the model in a single step.
    with atomic_write(folder / NEXT_CONFIG) as file:
        file.write(config)
    with atomic_write(folder / SAFETENSORS, expected_bytes=len(weights)) as file:
        file.write(weights)
    os.replace(folder / NEXT_CONFIG, folder / CONFIG)
    flush_folder(folder)
    return folder


def from_pretrained(directory: str | Path, *, trust: Sequence[str] = ()) -> Perceiver:
    """Load a model from a local directory written by `save_pretrained`, in evaluation mode, with its spec.

    Args:
        directory: directory with `config.json` and `model.safetensors`.
        trust: further packages whose classes the config may name, see `perceiver.load`.

    Raises:
        FileNotFoundError: if the directory, its config or its weights do not exist.
        WeightFileError: if the config is not JSON or the weights are not safetensors.
        CheckpointError: if the config does not describe a model of this package, or the weights do not fit it.
    """
    folder = Path(directory)
    content = read_config(folder, maker="perceiver.interop.hub.save_pretrained")
    if KEY not in content:
        hint = ""
        if content.get("model_type") == "perceiver":
            hint = "; this is a transformers config: use perceiver.interop.huggingface.from_transformers"
        raise CheckpointError(f"{folder / CONFIG}: expected the entry {KEY!r}, got {', '.join(list(content)[:8])}{hint}")
    recipe = recipe_of(content, folder / CONFIG)
    _, weights = read_weights(folder)
    return assemble(recipe, weights, trust=trust).eval()


def push(
    source: Perceiver | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    trust: Sequence[str] = (),
) -> str:
    """Upload a model with its card to the Hub, and return the address of the commit.

    Offline, `prepare_upload` writes the same files to a folder.

    Args:
        source: a model with a config, or a run directory, of which best checkpoint, metrics and ONNX file are uploaded.
        repo_id: repository, `owner/name`; created if missing.
        private: create it private.
        token: see `huggingface_hub.HfApi`.
        trust: see `perceiver.load`.

    Raises:
        CheckpointError: as `save_pretrained`.
        huggingface_hub.errors.HfHubHTTPError: if the Hub refuses the upload.
    """
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        prepare_upload(source, Path(folder), name=repo_id, trust=trust)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload model")
    return str(commit.commit_url)


def prepare_upload(source: Perceiver | str | Path, folder: Path, *, name: str, trust: Sequence[str] = ()) -> Path:
    """Write what `push` uploads to a folder: config, weights, `README.md` and, of a run directory, `model.onnx` if exported.

    Args:
        source, trust: see `push`.
        folder: target folder.
        name: name of the model in the card.
    """
    metrics: Mapping[str, Any] = {}
    data: str | None = None
    if isinstance(source, Perceiver):
        model = source
    else:
        recipe, model = read(source), load(source, trust=trust)
        run = Path(source)
        metrics = _metrics(run / "metrics.json")
        node = recipe.config.get("data")
        data = str(node.get("_target_", "")).rpartition(".")[2] or None if isinstance(node, Mapping) else None
        _copy_export(run / "export" / "model.onnx", folder, checkpoint=recipe.file)
    save_pretrained(model, folder)
    (folder / "README.md").write_text(model_card(model, name=name, metrics=metrics, data=data), encoding="utf-8")
    return folder


def _copy_export(exported: Path, folder: Path, *, checkpoint: Path) -> None:
    """Copy an exported model, if there is one, with the file of its step; one of an earlier checkpoint is left out."""
    if not exported.is_file():
        return
    if exported.stat().st_mtime < checkpoint.stat().st_mtime:
        log.warning("%s is left out: it is older than %s. Export the model again.", exported, checkpoint)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in (exported, step_path(exported)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _metrics(file: Path) -> dict[str, float]:
    """Return the numbers of a metrics.json; empty without a readable one."""
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MAX_METRICS))
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = content if isinstance(content, dict) else {}
    return {key: float(value) for key, value in numbers.items() if type(value) in (int, float)}


class HubPerceiver(nn.Module, PyTorchModelHubMixin, library_name="perceiver-multimodal"):
    """A Perceiver with the Hub's methods `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Args:
        model: the wrapped model, which is called with the same arguments.
    """

    def __init__(self, *, model: Perceiver) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """See `Perceiver.forward`."""
        return self.model(*arguments, **named)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model with `perceiver.interop.hub.save_pretrained`, and a model card unless there is one.

        The arguments are those of the mixin, which would delete an earlier config before it writes. `config` is ignored:
        the model has its own.
        """
        folder = save_pretrained(self.model, save_directory)
        card = folder / "README.md"
        if not card.exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(card)
        if not push_to_hub:
            return None
        url: str = self.push_to_hub(
            repo_id=repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs
        )
        return url

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        trust: Sequence[str] = (),
    ) -> HubPerceiver:
        folder = Path(model_id)
        if not folder.is_dir():
            files = [
                huggingface_hub.hf_hub_download(
                    repo_id=model_id,
                    filename=name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )
                for name in (CONFIG, SAFETENSORS)
            ]
            folder = Path(files[0]).parent
        return cls(model=from_pretrained(folder, trust=trust)).to(map_location).eval()
