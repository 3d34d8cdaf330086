"""Resuming a run: the choice of the checkpoint, its check against the configured model, and its best epoch so far."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig
from torch import nn

from perceiver import checkpoints
from perceiver.checkpoints.compare import differences, without_prefix
from perceiver.checkpoints.moved import present_name
from perceiver.run.assembly.spec import use_stored_spec
from perceiver.run.assembly.task import check_task
from perceiver.run.configuration.command_line import typed_override
from perceiver.run.errors import warn
from perceiver.run.resuming.epoch_progress import KEY as EPOCH
from perceiver.run.resuming.last_checkpoint import LAST, PREVIOUS
from perceiver.run.resuming.optimizer import OptimizerSettings
from perceiver.runtime.files import atomic_write
from perceiver.training.optimizer import OptimizerFactory

LAST_OF_RUN, AUTO = "last", "auto"
"""Values of `ckpt_path` that stand for the run's own directory."""

_MOST_CHANGES, _LONGEST = 8, 40
SHAPING = (
    "seed", "model", "task", "optimizer", "scheduler", "data", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.precision",
)  # fmt: skip
"""Settings that change the result of a training, unlike paths or numbers of loader processes."""
_NOT_SHAPING = ("num_workers", "root", "download", "cache")


class Scratch:
    """A training from scratch. The subclass `Resumed` continues a training.

    Attributes:
        file: the checkpoint to continue from.
        step: number of optimizer steps so far.
        last_row: metrics that the run would have logged next; None in the middle of an epoch.
    """

    file: Path | None = None
    step: int = 0
    last_row: dict[str, float] | None = None

    def check_task(self, task: DictConfig) -> None:
        """Check that the configured task is that of the resumed training."""

    def hand_spec_to(self, data: LightningDataModule) -> None:
        """Give the data the spec of the resumed training."""

    def check(self, model: nn.Module, plain: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Check that the model, the resolved configuration and the spec fit, and warn about changes."""

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """Return the factory of the training's optimizer."""
        return factory

    def callbacks(self) -> list[Callback]:
        """Return further callbacks that the training needs."""
        return []

    def set_damaged_aside(self) -> None:
        """Rename unreadable checkpoints of the same run."""


@dataclass(frozen=True, kw_only=True)
class Resumed(Scratch):
    """A checkpoint to continue from.

    Args:
        file: the checkpoint.
        recipe: configuration and spec of the checkpoint.
        step: number of optimizer steps so far.
        last_row: metrics that the run would have logged next; None in the middle of an epoch.
        damaged: newer, unreadable checkpoints of the same run.
        may_be_finished: whether a finished training is allowed.
    """

    file: Path
    recipe: checkpoints.Recipe
    step: int
    last_row: dict[str, float] | None = None
    damaged: tuple[Path, ...] = ()
    may_be_finished: bool = False

    @cached_property
    def _settings(self) -> OptimizerSettings:
        return OptimizerSettings(recipe=self.recipe)

    def check_task(self, task: DictConfig) -> None:
        """Check that the configured task is that of the checkpoint."""
        check_task(task, self.recipe)

    def hand_spec_to(self, data: LightningDataModule) -> None:
        """Give the data the spec of the checkpoint."""
        use_stored_spec(data, self.recipe.spec, file=self.file)

    def check(self, model: nn.Module, plain: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Compare the checkpoint with the configured training, and warn about changed settings.

        Raises:
            ValueError: the checkpoint is of another model or optimizer, cannot be resumed, or is finished.
        """
        check_architecture(model, self.file)
        check_unfinished(self.file, plain["trainer"], may_be_finished=self.may_be_finished)
        self._settings.check(plain)
        warn_of_changes(self.recipe, checkpoints.entry(plain, spec)["config"])

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """Return the optimizer's factory, recorded so that its settings apply after the checkpoint's state is restored."""
        return self._settings.noting(factory)

    def callbacks(self) -> list[Callback]:
        """Return callbacks that carry the best checkpoint along and apply changed settings of the optimizer."""
        return [CarryBest(resumed=self.file), self._settings]

    def set_damaged_aside(self) -> None:
        """Rename damaged checkpoints, so that they neither count as the last checkpoint nor are overwritten."""
        for file in self.damaged:
            with contextlib.suppress(FileNotFoundError):  # another process renamed it first
                file.rename(file.with_suffix(".damaged"))


def find_resumed(path: str | Path | None, *, directory: Path) -> Resumed | None:
    """Return the checkpoint to continue from, as given by `ckpt_path`.

    Args:
        path: a checkpoint file, or a run directory, whose newest readable checkpoint is used. `LAST_OF_RUN` or `AUTO`: the
            directory of this run; with `AUTO`, a run without a checkpoint starts from scratch. None: no checkpoint.
        directory: the run directory of this run.

    Raises:
        FileNotFoundError: no checkpoint is found; the message states what was expected.
        perceiver.checkpoints.CheckpointError: no checkpoint is readable; the message names a complete checkpoint of the
            same run, if any.
    """
    if path is None:
        return None
    if path in (LAST_OF_RUN, AUTO) and not Path(path).exists():
        if not _candidates(directory):
            if path == AUTO:
                return None
            raise FileNotFoundError(
                f"ckpt_path={path}: expected a checkpoint in the run directory {directory}, found none. Set "
                f"hydra.run.dir=RUN_DIR to the run to continue; ckpt_path={AUTO} starts from scratch if it has no "
                "checkpoint."
            )
        found = find_resumed(directory, directory=directory)
        return found and replace(found, may_be_finished=path == AUTO)
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
    """Return the checkpoints of a run directory, newest first."""
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
            f"{error}. The same run has a complete checkpoint, {others[0]}; "
            f"{typed_override('ckpt_path', file.parent.parent)} resumes from it."
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
    """Warn about settings that affect training and differ from those of the checkpoint."""
    if changed := changed_settings(recipe.config, now, sections=SHAPING):
        warn(f"{recipe.file} was trained with different settings: {changed}")


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], *, sections: Sequence[str]) -> str:
    """Return the settings that differ, `KEY: OLD -> NEW; …`, shortened; empty if none does."""
    changed = [
        f"{name}: {_show(old)} -> {_show(new)}"
        for section in sections
        for name, old, new in _differences(_select(before, section), _select(now, section), section)
    ]
    more = [f"and {len(changed) - _MOST_CHANGES} more"] if len(changed) > _MOST_CHANGES else []
    return "; ".join([*changed[:_MOST_CHANGES], *more])


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
        ValueError: the weights differ; the message lists missing, unexpected and differently shaped weights.
    """
    if problems := differences(model.state_dict(), without_prefix(_trainer_state(file)["state_dict"])):
        raise ValueError(
            f"ckpt_path: {file} has a different architecture from the configured model: {'; '.join(problems)}. "
            "Continue it with the settings it was trained with (config.yaml in its run directory), or train from "
            "scratch without ckpt_path."
        )


def check_unfinished(file: Path, trainer: Mapping[str, Any], *, may_be_finished: bool = False) -> None:
    """Check that the training can be resumed, and that it is unfinished unless it `may_be_finished`.

    Raises:
        ValueError: the file cannot be resumed, or has been trained for all of trainer.max_epochs.
    """
    state = _trainer_state(file)
    if not state.get("optimizer_states") or "loops" not in state:
        raise ValueError(f"ckpt_path: {file} holds weights but no optimizer state, so its training cannot be continued.")
    finished = int(_processed(state))
    epochs = trainer.get("max_epochs")
    if not may_be_finished and epochs is not None and 0 <= epochs <= finished:
        raise ValueError(
            f"ckpt_path: {file} has already been trained for {finished} epochs; set trainer.max_epochs above that "
            f"(now {epochs})."
        )


class CarryBest(Callback):
    """Copies the best checkpoint when resuming into another run directory, so that no worse checkpoint can replace it.

    Args:
        resumed: the checkpoint to continue from; the best checkpoint is expected beside it.
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
            # The best checkpoint was moved or deleted: only later checkpoints are compared.
            state.update(best_model_path="", best_model_score=None, best_k_models={}, kth_best_model_path="")
        elif copy and source != target:
            with best.open("rb") as content, atomic_write(target / best.name, expected_bytes=best.stat().st_size) as file:
                shutil.copyfileobj(content, file)

        def moved(path: str) -> str:
            return str(target / Path(path).name) if path else path

        state["dirpath"] = str(target)
        state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = moved(state.get(key, ""))


def _trainer_state(file: Path) -> dict[str, Any]:
    return checked_state(torch.load(file, map_location="cpu", weights_only=True, mmap=True), file)


def checked_state(state: dict[str, Any], file: Path) -> dict[str, Any]:
    """Check the form of a checkpoint's training state, which Lightning reads without checks, and return it.

    Raises:
        perceiver.checkpoints.CheckpointError: an entry has another type than a training writes.
    """
    wrong = [
        name
        for name, kind in _STATE.items()
        if name in state and not (isinstance(state[name], kind) and not isinstance(state[name], bool))
    ]
    wrong += [name for name in ("epoch", "global_step") if name not in wrong and not 0 <= state.get(name, 0) < 2**62]
    lists = [name for name in ("optimizer_states", "lr_schedulers") if name not in wrong]
    wrong += [name for name in lists if not all(isinstance(one, dict) for one in state.get(name, ()))]
    if EPOCH not in wrong:
        row = state.get(EPOCH, {}).get("row")
        if row is not None and not (isinstance(row, dict) and all(type(one) in (int, float) for one in row.values())):
            wrong.append(f"{EPOCH}.row")
    if "loops" in state and "loops" not in wrong and type(_processed(state)) is not int:
        wrong.append("loops.fit_loop.epoch_progress.current.processed")
    if wrong:
        raise checkpoints.CheckpointError(
            f"{file}: its training state is damaged: {', '.join(wrong)}. Copy the file again, or resume from another "
            "checkpoint"
        )
    return state


_STATE: dict[str, type | tuple[type, ...]] = {
    "epoch": int, "global_step": int, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict,
    "state_dict": dict, EPOCH: dict,
}  # fmt: skip


def _processed(state: Mapping[str, Any]) -> Any:
    """Return the number of epochs that a checkpoint has been trained for."""
    return _select(state, "loops.fit_loop.epoch_progress.current.processed")
