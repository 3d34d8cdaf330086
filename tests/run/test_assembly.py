"""What a run is made of: the data module of flat keys, and the task, which must be that of the checkpoint."""

from pathlib import Path

import pytest
import torch
from digit_targets import InkCentres
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from perceiver.checkpoints import Recipe
from perceiver.data import DataModule, Digits, PlacedDigits, RandomAffine
from perceiver.run.assembly import check_task, make_data, make_task


def test_flat_keys_go_to_the_source_or_to_the_module() -> None:
    config = OmegaConf.create(
        {
            "size": 100,
            "data": {
                "_target_": "perceiver.data.Digits",
                "test_size": "${size}",
                "batch_size": 7,
                "augment": {"_target_": "perceiver.data.RandomAffine", "degrees": 5.0},
                "num_labelled": None,
            },
        }
    )
    data = make_data(config.data)
    assert isinstance(data, DataModule)
    assert isinstance(data.source, Digits)
    assert (data.source.test_size, data.batch_size) == (100, 7)
    (transform,) = data.augment["image"].transforms.values()
    assert isinstance(transform.transform, RandomAffine)
    assert config.data._target_ == "perceiver.data.Digits", "left as it was"


def test_a_source_may_have_a_source() -> None:
    node = {"_target_": "perceiver.data.PlacedDigits", "source": {"_target_": "perceiver.data.Digits"}, "num_workers": 1}
    data = make_data(node)
    assert isinstance(data, DataModule)
    assert isinstance(data.source, PlacedDigits)
    assert isinstance(data.source.source, Digits)
    assert data.num_workers == 1


def test_other_data_modules_get_all_keys() -> None:
    data = make_data({"_target_": "digit_targets.InkCentres", "batch_size": 9})
    assert isinstance(data, InkCentres)
    assert data.batch_size == 9


def test_names_and_keys_that_there_are_not() -> None:
    with pytest.raises(InstantiationException, match=r"Error locating target 'perceiver\.data\.Digitz'"):
        make_data({"_target_": "perceiver.data.Digitz"})
    with pytest.raises(InstantiationException, match=r"(?s)'perceiver\.data\.RandomAffin'.*data\.augment"):
        make_data(
            OmegaConf.create(
                {"data": {"_target_": "perceiver.data.Digits", "augment": {"_target_": "perceiver.data.RandomAffin"}}}
            ).data
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'tset_size'"):
        make_data({"_target_": "perceiver.data.Digits", "tset_size": 3})


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
    config = OmegaConf.create({"task": {"_target_": configured}})
    if FORMER[stored] == configured:
        check_task(config, recipe)
    else:
        with pytest.raises(ValueError, match=rf"was trained with {FORMER[stored]}, but {configured} is configured"):
            check_task(config, recipe)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_objective() -> None:
    plain = {"task": {"_target_": "torch.nn.Identity"}, "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True}}
    with pytest.raises(ValueError, match=r"task._target_=torch.nn.Identity: expected a perceiver.objectives.Objective"):
        make_task(plain, torch.nn.Linear(1, 1), {})  # type: ignore[arg-type]
