"""Continuing a run: which checkpoint, whether it fits, and that the best one comes along."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from perceiver.run.resume import CarryBest, check_architecture, check_unfinished, find_last


def saved(path: Path, model: nn.Module, *, epochs: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    progress = {"epoch_progress": {"current": {"processed": epochs}}}
    content = {"state_dict": state, "optimizer_states": [{"state": {}}], "loops": {"fit_loop": progress}}
    torch.save(content, path)
    return path


def test_the_last_checkpoint_of_a_run_is_continued(tmp_path: Path) -> None:
    best = saved(tmp_path / "checkpoints" / "best.ckpt", nn.Linear(2, 2))
    assert find_last(tmp_path) == best, "better than nothing"
    last = saved(tmp_path / "checkpoints" / "last.ckpt", nn.Linear(2, 2))
    assert find_last(tmp_path) == last
    assert find_last(best) == best
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_last(tmp_path / "other")


def test_the_same_architecture_passes(tmp_path: Path) -> None:
    check_architecture(nn.Linear(2, 3), saved(tmp_path / "a.ckpt", nn.Linear(2, 3)))


def test_differences_are_summed_up(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt", nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Identity(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="another architecture") as caught:
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
