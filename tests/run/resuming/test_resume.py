"""Continuing a run: which checkpoint, whether it fits, and that the best one comes along."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from perceiver.checkpoints.file import CheckpointError
from perceiver.run.resuming.resume import (
    CarryBest,
    Resumed,
    check_architecture,
    check_unfinished,
    find_resumed,
    warn_of_changes,
)

CONFIG = {"model": {}, "optimizer": {"lr": 0.01}, "data": {"batch_size": 8, "num_workers": 0}}


def saved(path: Path, model: nn.Module, *, epochs: int = 3, step: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    progress = {"epoch_progress": {"current": {"processed": epochs}}}
    content = {"state_dict": state, "optimizer_states": [{"state": {}}], "loops": {"fit_loop": progress}}
    recipe = {"format": 1, "config": CONFIG, "spec": None}
    torch.save({**content, "global_step": step, "perceiver": recipe}, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with three checkpoints."""
    folder = tmp_path / "run" / "checkpoints"
    for step, name in enumerate(("best", "previous", "last")):
        saved(folder / f"{name}.ckpt", nn.Linear(2, 2), step=step)
    return tmp_path / "run"


def resumed(path: str | Path | None, directory: Path) -> Resumed:
    found = find_resumed(path, directory=directory)
    assert found is not None
    return found


def test_the_last_checkpoint_of_a_run_is_continued(run: Path, tmp_path: Path) -> None:
    assert find_resumed(None, directory=run) is None
    for path in (run, str(run)):
        assert resumed(path, tmp_path).file == run / "checkpoints" / "last.ckpt"
    assert resumed(run, tmp_path).step == 2
    best = run / "checkpoints" / "best.ckpt"
    assert resumed(best, tmp_path).file == best
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_resumed(tmp_path / "other", directory=run)


def test_the_run_itself_is_continued(run: Path, tmp_path: Path) -> None:
    assert resumed("last", run).file == resumed("auto", run).file == run / "checkpoints" / "last.ckpt"
    assert find_resumed("auto", directory=tmp_path / "new") is None
    with pytest.raises(
        FileNotFoundError, match="expected a checkpoint in the run directory .*ckpt_path=auto starts from scratch"
    ):
        find_resumed("last", directory=tmp_path / "new")


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "checkpoints"
    truncate(folder / "last.ckpt")
    found = resumed("auto", run)
    assert found.file == folder / "previous.ckpt"
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {folder}/last.ckpt: the file is truncated or damaged")
    assert f"Continuing from {folder}/previous.ckpt instead." in err
    found.set_damaged_aside()
    assert sorted(file.name for file in folder.iterdir()) == ["best.ckpt", "last.damaged", "previous.ckpt"]
    truncate(folder / "previous.ckpt")
    assert resumed(run, run).file == folder / "best.ckpt"
    (folder / "best.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        find_resumed(run, directory=run)


def test_a_damaged_file_that_was_asked_for_names_a_good_one(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    truncate(last)
    with pytest.raises(CheckpointError, match=r"truncated or damaged.*complete checkpoint, .*previous\.ckpt; ckpt_path="):
        find_resumed(last, directory=run)


def test_changed_settings_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = resumed(run, run).recipe
    warn_of_changes(recipe, CONFIG)
    assert capsys.readouterr().err == ""
    warn_of_changes(recipe, {**CONFIG, "optimizer": {"lr": 0.1}, "data": {"batch_size": 16, "num_workers": 3}})
    err = capsys.readouterr().err
    assert err.endswith("was trained with different settings: optimizer.lr: 0.01 -> 0.1; data.batch_size: 8 -> 16\n")


def test_the_same_architecture_passes(tmp_path: Path) -> None:
    check_architecture(nn.Linear(2, 3), saved(tmp_path / "a.ckpt", nn.Linear(2, 3)))


def test_differences_are_summed_up(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt", nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Identity(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="a different architecture") as caught:
        check_architecture(model, file)
    message = str(caught.value)
    assert "1 parameters differ in shape: 0.weight (checkpoint 3x2, model 3x4)" in message
    assert "2 parameters are not in the checkpoint: 2.weight (model 1x3), 2.bias (model 1)" in message
    assert "3 parameters are only in the checkpoint: 0.bias (checkpoint 3), 1.weight" in message


@pytest.mark.parametrize(("limit", "refused"), [(3, True), (2, True), (4, False), (-1, False), (None, False)])
def test_a_finished_training_is_refused(limit: int | None, refused: bool, tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt", nn.Linear(2, 2))
    if refused:
        with pytest.raises(ValueError, match="already been trained for 3 epochs"):
            check_unfinished(file, {"max_epochs": limit})
        check_unfinished(file, {"max_epochs": limit}, may_be_finished=True)
    else:
        check_unfinished(file, {"max_epochs": limit})


def test_weights_alone_cannot_be_continued(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="no optimizer state"):
        check_unfinished(tmp_path / "a.ckpt", {})


def carried(old: Path, new: Path) -> dict[str, Any]:
    """The state of ModelCheckpoint as a resumed run in `new` reads it."""
    callback = ModelCheckpoint(dirpath=new, filename="best", monitor="val/accuracy", mode="max")
    best = "/moved/since/checkpoints/best.ckpt"
    state = {
        "dirpath": "/moved/since/checkpoints",
        "best_model_path": best,
        "best_model_score": torch.tensor(0.9),
        "best_k_models": {best: torch.tensor(0.9)},
        "kth_best_model_path": best,
        "last_model_path": "",
    }
    trainer = Mock(spec=Trainer, checkpoint_callbacks=[callback])
    checkpoint = {"callbacks": {callback.state_key: state}}
    CarryBest(resumed=old / "last.ckpt").on_load_checkpoint(trainer, LightningModule(), checkpoint)
    callback.load_state_dict(state)
    assert callback.best_model_path == state["best_model_path"]
    return state


def test_the_best_checkpoint_comes_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    saved(old / "best.ckpt", nn.Linear(2, 2))
    state = carried(old, new)
    assert (new / "best.ckpt").read_bytes() == (old / "best.ckpt").read_bytes()
    assert state["best_model_path"] == str(new / "best.ckpt")
    assert float(state["best_k_models"][str(new / "best.ckpt")]) == pytest.approx(0.9)


def test_a_best_checkpoint_that_is_gone_no_longer_counts(tmp_path: Path) -> None:
    state = carried(tmp_path / "old", tmp_path / "new")
    assert state["best_model_path"] == ""
    assert state["best_k_models"] == {}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("global_step", "7", "global_step"),
        ("global_step", -1, "global_step"),
        ("optimizer_states", [3], "optimizer_states"),
        ("loops", {"fit_loop": []}, "loops.fit_loop.epoch_progress.current.processed"),
        ("perceiver_epoch", {"row": {"train/loss": "low"}}, "perceiver_epoch.row"),
    ],
)
def test_a_damaged_training_state_is_one_clear_error(name: str, value: object, reason: str, run: Path) -> None:
    """Of the newest checkpoint: the one before it is continued."""
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    torch.save({**content, name: value}, file)
    with pytest.raises(CheckpointError, match=rf"last\.ckpt: its training state is damaged: {reason}\."):
        find_resumed(file, directory=run.parent / "other")
    assert resumed(run, run).file.name == "previous.ckpt"
