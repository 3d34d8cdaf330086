"""The task of a run: that of the checkpoint, whatever its name was, and nothing but an objective."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from perceiver.checkpoints import CheckpointError, Recipe
from perceiver.run.assembly.task import check_task, make_task

FORMER = {
    "perceiver.tasks.classification.ClassificationTask": "perceiver.objectives.classification",
    "perceiver.tasks.masked_tokens.MaskedTokensTask": "perceiver.objectives.MaskedTokenModelling",
    "perceiver.tasks.regression.RegressionTask": "perceiver.objectives.regression",
    "my_package.MyObjective": "my_package.MyObjective",
}


@pytest.mark.parametrize("stored", FORMER)
@pytest.mark.parametrize("configured", FORMER.values())
def test_the_task_is_that_of_the_checkpoint(stored: str, configured: str) -> None:
    """Also by its name in version 0.1; another kind of target is another task."""
    recipe = Recipe(file=Path("last.ckpt"), config={"task": {"_target_": stored}}, spec=None)
    task = OmegaConf.create({"_target_": configured})
    if FORMER[stored] == configured:
        check_task(task, recipe)
    else:
        with pytest.raises(ValueError, match=rf"was trained with {FORMER[stored]}, but {configured} is configured"):
            check_task(task, recipe)


@pytest.mark.parametrize("section", [[1, 2], "classification", 3, True])
def test_a_section_that_is_no_mapping_is_one_clear_error(section: object) -> None:
    recipe = Recipe(file=Path("last.ckpt"), config={"task": section, "data": section}, spec=None)
    task = OmegaConf.create({"_target_": "perceiver.objectives.classification"})
    with pytest.raises(CheckpointError, match=r"last\.ckpt: its config\.task is a \w+; expected a mapping"):
        check_task(task, recipe)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: its config\.data is a \w+; expected a mapping"):
        recipe.section("data")
    assert recipe.section("optimizer") == {}


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_objective() -> None:
    plain = {"task": {"_target_": "torch.nn.Identity"}, "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True}}
    with pytest.raises(ValueError, match=r"task._target_=torch.nn.Identity: expected a perceiver.objectives.Objective"):
        make_task(plain, torch.nn.Linear(1, 1), {})  # type: ignore[arg-type]
