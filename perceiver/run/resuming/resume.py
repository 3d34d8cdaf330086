"""Continuing a run: which checkpoint, whether it fits the configured model, and how its best epoch is carried along."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from perceiver import checkpoints
from perceiver.checkpoints.moved import present_name
from perceiver.run.errors import warn
from perceiver.run.resuming.epoch_progress import KEY as EPOCH
from perceiver.run.resuming.last_checkpoint import LAST, PREVIOUS

LAST_OF_RUN, AUTO = "last", "auto"
"""Values of `ckpt_path` that mean the run directory of the run itself."""

_PREFIX = "model."
_MOST_LISTED, _MOST_CHANGES, _LONGEST = 3, 8, 40
# What makes another training of it. Paths and numbers of loader processes do not.
_SHAPING = (
    "seed", "model", "task", "optimizer", "scheduler", "data", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.precision",
)  # fmt: skip
_NOT_SHAPING = ("num_workers", "root", "download", "cache")


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A checkpoint to continue from.

    Args:
        file: the checkpoint.
        recipe: what it says besides its weights.
        step: steps of the optimizer so far.
        last_row: metrics that the run would have logged next; None in the middle of an epoch.
        damaged: newer ones of the same run that cannot be read.
    """

    file: Path
    recipe: checkpoints.Recipe
    step: int
    last_row: dict[str, float] | None = None
    damaged: tuple[Path, ...] = ()

    def set_damaged_aside(self) -> None:
        """Rename what is damaged, so that it neither counts as the last checkpoint nor is written over."""
        for file in self.damaged:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                file.rename(file.with_suffix(".damaged"))


def find_resumed(path: str | Path | None, *, directory: Path) -> Resumed | None:
    """What `ckpt_path` says to continue from.

    Args:
        path: a checkpoint file; a run directory, of which the newest checkpoint that can be read is taken; `LAST_OF_RUN` or
            `AUTO`: of the run directory of this run, where `AUTO` starts anew if it has none; None: nothing.
        directory: the run directory of this run.

    Raises:
        FileNotFoundError: if there is nothing; says what was expected.
        perceiver.checkpoints.CheckpointError: if what there is cannot be read; names the others of a file's run.
    """
    if path is None:
        return None
    if path in (LAST_OF_RUN, AUTO) and not Path(path).exists():
        if not _candidates(directory):
            if path == AUTO:
                return None
            raise FileNotFoundError(
                f"ckpt_path={path}: expected a checkpoint in the run directory {directory}, found none. Set "
                f"hydra.run.dir=RUN_DIR to the run that is to be continued; ckpt_path={AUTO} starts anew if there is none."
            )
        path = directory
    given = Path(path)
    if not given.is_dir() or not _candidates(given):
        return _read_file(checkpoints.find(given))
    damaged: list[Path] = []
    problems: list[str] = []
    for file in _candidates(given):
        try:
            found = _read_file(file)
        except checkpoints.CheckpointError as error:
            damaged.append(file)
            problems.append(str(error))
        else:
            if damaged:
                warn(f"{' '.join(problems)} Continuing from {file} instead.")
            return replace(found, damaged=tuple(damaged))
    raise checkpoints.CheckpointError(f"{given}: none of its checkpoints can be read: {' '.join(problems)}")


def _candidates(directory: Path) -> list[Path]:
    """The checkpoints of a run directory, newest first."""
    folder = directory / "checkpoints"
    return [folder / name for name in (LAST, PREVIOUS, "best.ckpt") if (folder / name).is_file()]


def _read_file(file: Path) -> Resumed:
    try:
        recipe = checkpoints.read(file)
    except checkpoints.CheckpointError as error:
        others = [other for other in _candidates(file.parent.parent) if other != file and _is_good(other)]
        if not others or file.parent.name != "checkpoints":
            raise
        raise checkpoints.CheckpointError(
            f"{error}. Of the same run, {others[0]} is complete; ckpt_path={file.parent.parent} takes it."
        ) from error
    state = _trainer_state(file)
    row = state.get(EPOCH, {}).get("row")
    return Resumed(file=file, recipe=recipe, step=int(state.get("global_step", 0)), last_row=row)


def _is_good(file: Path) -> bool:
    try:
        checkpoints.read(file)
    except checkpoints.CheckpointError:
        return False
    return True


def warn_of_changes(recipe: checkpoints.Recipe, now: Mapping[str, Any]) -> None:
    """Print which settings that shape a training differ from those that the checkpoint was trained with."""
    changed = [
        f"{name}: {_show(old)} -> {_show(new)}"
        for section in _SHAPING
        for name, old, new in _differences(_select(recipe.config, section), _select(now, section), section)
    ]
    if changed:
        more = [f"and {len(changed) - _MOST_CHANGES} more"] if len(changed) > _MOST_CHANGES else []
        warn(f"{recipe.file} was trained with other settings: {'; '.join([*changed[:_MOST_CHANGES], *more])}")


def _differences(old: Any, new: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new} - {*_NOT_SHAPING}, key=str):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new and not (isinstance(old, str) and present_name(old) == new):
        yield name, old, new


def _select(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


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


def check_unfinished(file: Path, trainer: Mapping[str, Any], *, may_be_finished: bool = False) -> None:
    """Check that the training can be continued, and that there is something left of it unless it `may_be_finished`.

    Raises:
        ValueError: if the file cannot be resumed, or has been trained for all of trainer.max_epochs.
    """
    state = _trainer_state(file)
    if not state.get("optimizer_states") or "loops" not in state:
        raise ValueError(f"ckpt_path: {file} holds weights but no optimizer state, so its training cannot be continued.")
    finished = int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    epochs = trainer.get("max_epochs")
    if not may_be_finished and epochs is not None and 0 <= epochs <= finished:
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
