"""Continuing a run: which checkpoint, whether it fits the configured model, and how its best epoch is carried along."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from perceiver import checkpoints

_PREFIX = "model."
_MOST_LISTED = 3


def find_last(path: str | Path) -> Path:
    """The checkpoint to continue from: a file, or the last (else the best) one of a run directory.

    Raises:
        FileNotFoundError: if there is nothing; says what was expected.
    """
    last = Path(path) / "checkpoints" / "last.ckpt"
    return last if last.is_file() else checkpoints.find(path)


def check_architecture(model: nn.Module, file: Path) -> None:
    """Compare the weights in `file` with the configured model.

    Raises:
        ValueError: one that sums up what is missing, left over, or of another shape.
    """
    stored = _trainer_state(file)["state_dict"]
    own = {_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    if problems := differences(own, {name: stored[name] for name in stored if name.startswith(_PREFIX)}):
        raise ValueError(
            f"ckpt_path: {file} holds another architecture than the configured model: {'; '.join(problems)}. Continue it "
            "with the settings it was trained with (config.yaml in its run directory), or train anew without ckpt_path."
        )


def differences(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """What is missing, left over, or of another shape in a checkpoint's weights, summed up; empty where they fit."""
    missing = [name for name in own if name not in stored]
    extra = [name for name in stored if name not in own]
    reshaped = [name for name in own if name in stored and own[name].shape != stored[name].shape]
    return [
        *_summary("differ in shape", reshaped, lambda n: f"checkpoint {_size(stored[n])}, model {_size(own[n])}"),
        *_summary("are not in the checkpoint", missing, lambda n: f"model {_size(own[n])}"),
        *_summary("are only in the checkpoint", extra, lambda n: f"checkpoint {_size(stored[n])}"),
    ]


def check_unfinished(file: Path, trainer: Mapping[str, Any]) -> None:
    """Check that there is something left to train.

    Raises:
        ValueError: if the file cannot be resumed, or has been trained for all of trainer.max_epochs.
    """
    state = _trainer_state(file)
    if not state.get("optimizer_states") or "loops" not in state:
        raise ValueError(f"ckpt_path: {file} holds weights but no optimizer state, so its training cannot be continued.")
    finished = int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    epochs = trainer.get("max_epochs")
    if epochs is not None and 0 <= epochs <= finished:
        raise ValueError(
            f"ckpt_path: {file} has already been trained for {finished} epochs; set trainer.max_epochs above that "
            f"(now {epochs})."
        )


class CarryBest(Callback):
    """On resuming into another run directory, takes the best checkpoint along, so that a worse one cannot pass for it.

    Args:
        resumed: the checkpoint that training continues from; the best one is expected beside it.
    """

    def __init__(self, *, resumed: Path) -> None:
        self.resumed = resumed

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Copy files and rewrite the paths that ModelCheckpoint is about to read."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                state = checkpoint["callbacks"].get(callback.state_key)
                if state is not None:
                    self._move(state, Path(callback.dirpath), copy=callback.monitor is not None)

    def _move(self, state: dict[str, Any], target: Path, *, copy: bool) -> None:
        source = self.resumed.parent.resolve()
        best = source / Path(state["best_model_path"]).name
        if copy and not best.is_file():
            # Moved away or deleted: what follows is compared among itself.
            state.update(best_model_path="", best_model_score=None, best_k_models={}, kth_best_model_path="")
        elif copy and source != target:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(best, target / best.name)

        def moved(path: str) -> str:
            return str(target / Path(path).name) if path else path

        state["dirpath"] = str(target)
        state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = moved(state.get(key, ""))


def _trainer_state(file: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return state


def _summary(what: str, names: Sequence[str], describe: Callable[[str], str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(f"{name.removeprefix(_PREFIX)} ({describe(name)})" for name in names[:_MOST_LISTED])
    more = f", and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return [f"{len(names)} parameters {what}: {listed}{more}"]


def _size(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
